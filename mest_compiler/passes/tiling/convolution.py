"""Convolutions over batch tiles: which kernel, and the run-time index arrays it takes."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from mest_compiler.frontend.ops import attributes
from mest_compiler.kernels.fusion import ALONE, SUMS, BackwardSums, ForwardSums, Fused
from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.schedules.partial import Partial

from ..program import dtype_of, shape_of
from .state import Tiling


def run_layer(
    tiling: Tiling, param: str, direction: str, args: list[relax.Expr], out: list[relax.TensorType],
    variant: Fused | Normalisation | None = None, read: Sequence[relax.Expr] = (),
) -> list[relax.Expr]:  # fmt: skip
    """Calls a layer's kernel of a direction, with its index arrays behind `args` where it is sparse, and what its
    epilogue reads behind those. args: the weight is the last one, but for its gradient. variant: what is fused into a
    gather, or the batch norm that a weight gradient computes again."""
    layer = tiling.layers[param]
    choice, forms = layer.choices[direction], layer.forms_of(direction)
    indices = [tiling.index_params[param, array] for array in forms]
    make = choice.make if variant is None else Partial(choice.make, variant)
    # The step comes first, and a prediction's kernel has no variant.
    layer.functions.setdefault(direction, tiling.kernels.get(make).name_hint)
    if choice.beside is None:
        return tiling.run(make, [*args, *indices, *read], out)
    g = layer.problem.geometry
    dense = relax.TensorType(g.weight_shape, g.dtype)
    if direction != "backward_weight":
        (weight,) = tiling.run(choice.beside, [args[-1], *indices], [dense])
        return tiling.run(make, [*args[:-1], weight, *read], out)
    gradient = tiling.run(make, args, [dense, *out[1:]])[0]
    return tiling.run(choice.beside, [gradient, *indices], out[:1])


def workspace(tiling: Tiling, param: str) -> list[relax.TensorType]:
    """Room that the weight gradient of a layer needs for partial sums."""
    layer = tiling.layers[param]
    shape = layer.choices["backward_weight"].workspace
    return [] if shape is None else [relax.TensorType(shape, layer.problem.geometry.dtype)]


def _source(
    tiling: Tiling, expr: relax.Call, x: relax.Expr, vectors: Sequence[relax.Expr]
) -> tuple[list[relax.Expr], Normalisation | None]:
    """What a convolution reads for x, and the batch norm of which it is the input where that is computed again."""
    a = attributes(expr)
    g = tiling.layers[a["param"]].problem.geometry
    if not a.get("recompute"):
        return [tiling.tiled(x, g.x.border)[0]], None
    source, plane = tiling.tiled(x)
    n, c, _, _ = shape_of(x)
    recompute = Normalisation(n, c, tiling.vec(g.dtype), plane, g.x, bool(a["relu"]), upper=float(a["upper"]))
    return [source, *(tiling.plain(v) for v in vectors)], recompute


def _room(recompute: Normalisation | None, chunks: int) -> list[relax.TensorType]:
    """Of the batch tiles that the parts of the work compute again."""
    if recompute is None:
        return []
    return [relax.TensorType([chunks, recompute.channels * recompute.z.size, recompute.vec.lanes], recompute.vec.dtype)]


def forward(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """y = conv(x, w)."""
    x, weight, *vectors = expr.args
    read, recompute = _source(tiling, expr, x, vectors)
    sums = ForwardSums() if attributes(expr).get("sums") else None
    chunks = tiling.device.threads if recompute is not None else 1
    _gather(tiling, var, "forward", [*read, tiling.plain(weight)], Fused(sums, recompute, chunks))


def backward_data(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """dx from dy and w; with sums, masked as the batch norm in front says."""
    a = attributes(expr)
    dy, _ = tiling.tiled(expr.args[0], tiling.layers[a["param"]].problem.geometry.dy.border)
    args, fused, read = [dy, tiling.plain(expr.args[1])], ALONE, []
    if a.get("sums"):
        x, plane = tiling.tiled(expr.args[2])
        z, z_plane = tiling.tiled(expr.args[7]) if a["residual"] else (None, None)
        fused = Fused(BackwardSums(plane, bool(a["relu"]), float(a["upper"]), z_plane))
        read = [x, *([z] if z is not None else []), *(tiling.plain(v) for v in expr.args[3:7])]
    _gather(tiling, var, "backward_data", args, fused, read)


def _gather(
    tiling: Tiling, var: relax.Var, direction: str, args: list[relax.Expr], fused: Fused,
    read: Sequence[relax.Expr] = (),
) -> None:  # fmt: skip
    shape, dtype = shape_of(var), dtype_of(var)
    param = attributes(tiling.defined[var])["param"]
    out = [tiling.tiled_type(shape, dtype)]
    if fused.epilogue is not None:
        out.append(tiling.tiled_type((*shape[:2], SUMS.height, SUMS.width), dtype))
    out += _room(fused.recompute, fused.chunks)
    variant = None if fused == ALONE else fused
    result, *more = run_layer(tiling, param, direction, args, out, variant, read)
    tiling.bind(var, result, 0)
    if fused.epilogue is not None:
        tiling.sums[var] = more[0]


def backward_weight(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """The gradient of w, dense or of compact values; what outputs follow are the kernel's workspace."""
    param = attributes(expr)["param"]
    layer = tiling.layers[param]
    dy, _ = tiling.tiled(expr.args[0], layer.problem.geometry.dy.border)
    read, recompute = _source(tiling, expr, expr.args[1], expr.args[2:])
    out = [relax.TensorType(shape_of(var), dtype_of(var)), *workspace(tiling, param)]
    if recompute is not None:
        out += _room(recompute, layer.choices["backward_weight"].knobs.chunks)
    tiling.values[var].plain = run_layer(tiling, param, "backward_weight", [*read, dy], out, recompute)[0]


HANDLERS = {
    **dict.fromkeys(("mest.conv2d", "mest.sparse_conv2d"), forward),
    **dict.fromkeys(("mest.conv2d_backward_data", "mest.sparse_conv2d_backward_data"), backward_data),
    **dict.fromkeys(("mest.conv2d_backward_weight", "mest.sparse_conv2d_backward_weight"), backward_weight),
}
