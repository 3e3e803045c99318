"""Whole normalisations over batch tiles: running statistics are updated in place."""

from __future__ import annotations

from tvm import relax

from mest_compiler.frontend.ops import attributes
from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.schedules.partial import Partial

from ..program import dtype_of, shape_of
from ..repeat import Repeat
from .state import Tiling, Value


def _shape(tiling: Tiling, expr: relax.Call, x: Plane, z_border: int, residual: Plane | None) -> Normalisation:
    a, (n, c, h, w) = attributes(expr), shape_of(expr.args[0])
    vec, z = tiling.vec(dtype_of(expr.args[0])), Plane(h, w, z_border)
    return Normalisation(n, c, vec, x, z, bool(a["relu"]), residual, float(a["upper"]))


def forward(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """Training: (z, mean, rstd, running mean, running variance), the last two in place."""
    a, shape, dtype = attributes(expr), shape_of(expr.args[0]), dtype_of(expr.args[0])
    x, plane = tiling.tiled(expr.args[0])
    residual, residual_plane = tiling.tiled(expr.args[5]) if a["residual"] else (None, None)
    border = tiling.border_of(var, 0)
    n = _shape(tiling, expr, plane, border, residual_plane)
    vectors = [tiling.plain(v) for v in expr.args[1:5]]
    vector = relax.TensorType([n.channels], dtype)
    sums = [tiling.sums[expr.args[0]]] if a.get("sums") else []
    normalise = tiling.generators.normalise
    room = tiling.generators.normalise_from_sums if sums else normalise
    kernel = tiling.kernels.get(Partial(room.forward, n, a["momentum"], a["eps"]))
    # x, w, b, mean, rstd, and the residual: what its output is computed from again.
    sources = (("in", 0), ("in", 1), ("in", 2), ("out", 1), ("out", 2), *([("in", 5)] if residual is not None else []))
    tiling.repeats[kernel.name_hint] = Repeat(Partial(normalise.recompute, n), sources)
    result = tiling.builder.emit(
        relax.op.call_tir_inplace(
            kernel,
            [x, *vectors, *([residual] if residual is not None else []), *sums],
            [-1, -1, -1, 3, 4],
            [tiling.tiled_type(shape, dtype, border), *[vector] * 4],
        )
    )
    outputs = [tiling.builder.emit(relax.TupleGetItem(result, i)) for i in range(5)]
    tiling.tuples[var] = [
        tiling.activation(outputs[0], shape, dtype, border),
        *[Value(v, {}, (n.channels,), dtype) for v in outputs[1:]],
    ]


def statistics(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """Training: (mean, rstd, running mean, running variance), the last two in place."""
    a, dtype = attributes(expr), dtype_of(expr.args[0])
    x, plane = tiling.tiled(expr.args[0])
    n_examples, channels, _, _ = shape_of(expr.args[0])
    n = Normalisation(n_examples, channels, tiling.vec(dtype), plane, plane, False)
    sums = [tiling.sums[expr.args[0]]] if a.get("sums") else []
    normalise = tiling.generators.normalise
    room = tiling.generators.normalise_from_sums if sums else normalise
    kernel = tiling.kernels.get(Partial(room.statistics, n, a["momentum"], a["eps"]))
    args, vector = [x, *(tiling.plain(v) for v in expr.args[1:3]), *sums], relax.TensorType([channels], dtype)
    result = tiling.builder.emit(relax.op.call_tir_inplace(kernel, args, [-1, -1, 1, 2], [vector] * 4))
    outputs = [tiling.builder.emit(relax.TupleGetItem(result, i)) for i in range(4)]
    tiling.tuples[var] = [Value(v, {}, (channels,), dtype) for v in outputs]


def inference(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """With running statistics: z."""
    a = attributes(expr)
    x, plane = tiling.tiled(expr.args[0])
    residual, residual_plane = tiling.tiled(expr.args[5]) if a["residual"] else (None, None)
    n = _shape(tiling, expr, plane, tiling.border_of(var), residual_plane)
    args = [x, *[tiling.plain(v) for v in expr.args[1:5]], *([residual] if residual is not None else [])]
    out = [tiling.tiled_type(shape_of(var), dtype_of(var), n.z.border)]
    (z,) = tiling.run(Partial(tiling.generators.normalise.inference, n, a["eps"]), args, out)
    tiling.bind(var, z, n.z.border)


def backward(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """(gx, gw, gb, g): g is written only where the residual's branch reads it."""
    a, shape, dtype = attributes(expr), shape_of(expr.args[0]), dtype_of(expr.args[0])
    x, plane = tiling.tiled(expr.args[0])
    rest = list(expr.args[5:])
    z, z_plane = tiling.tiled(rest.pop(0)) if a["residual"] else (None, None)
    gradients = [tiling.tiled(g) for g in rest]
    n = _shape(tiling, expr, plane, z_plane.border if z_plane else 0, z_plane)
    dx = Plane(plane.height, plane.width, tiling.border_of(var, 0))
    planes, keep = [p for _, p in gradients], bool(a["keep"])
    vectors = [tiling.plain(v) for v in expr.args[1:5]]
    if a.get("sums"):
        w, _, mean, rstd = vectors
        ((g, g_plane),) = gradients
        make = Partial(tiling.generators.normalise_from_sums.backward, n, g_plane, dx)
        args = [g, x, w, mean, rstd, tiling.sums[rest[0]]]
    else:
        make = Partial(tiling.generators.normalise.backward, n, planes, dx, keep)
        args = [*[g for g, _ in gradients], x, *([z] if z is not None else []), *vectors]
    vector = relax.TensorType([n.channels], dtype)
    out = [tiling.tiled_type(shape, dtype, dx.border), vector, vector]
    outputs = tiling.run(make, args, out + ([tiling.tiled_type(shape, dtype)] if keep else []))
    tiling.tuples[var] = [
        tiling.activation(outputs[0], shape, dtype, dx.border),
        *[Value(v, {}, (n.channels,), dtype) for v in outputs[1:3]],
        *([tiling.activation(outputs[3], shape, dtype, 0)] if keep else []),
    ]


HANDLERS = {
    "mest.normalise": forward,
    "mest.batch_statistics": statistics,
    "mest.normalise_inference": inference,
    "mest.normalise_backward": backward,
}
