"""Convolutions over batch tiles: which kernel, and the run-time index arrays it takes."""

from __future__ import annotations

from math import prod

from tvm import relax

from mest_compiler.frontend.ops import attributes
from mest_compiler.schedules.cpu import zeros

from ..program import dtype_of, shape_of
from .state import Tiling


def run_layer(
    tiling: Tiling, param: str, direction: str, args: list[relax.Expr], out: list[relax.TensorType]
) -> list[relax.Expr]:
    """Calls a layer's kernel of a direction, with its index arrays behind `args` where it is sparse."""
    layer = tiling.layers[param]
    choice, forms = layer.choices[direction], layer.forms_of(direction)
    indices = [tiling.index_params[param, array] for array in forms]
    dtypes = {array: form.dtype for array, form in forms.items()}
    # What the generated code depends on; a layer's capacity is not among it, but for the types of its indices.
    kind = None if layer.sparse is None else (layer.sparse.scheme, tuple(dtypes.items()))
    key = (choice.kernel, choice.indexing, layer.geometry, kind, choice.knobs)
    layer.functions[direction] = tiling.kernels.get(key, choice.make).name_hint
    if choice.indexing != "zeros":
        return tiling.run(key, choice.make, [*args, *indices], out)
    sparse, dtype = layer.sparse, layer.geometry.dtype
    dense = relax.TensorType(sparse.shape, dtype)
    if direction != "backward_weight":
        make = lambda: zeros.expand(sparse, dtypes)  # noqa: E731
        (weight,) = tiling.run(("expand", sparse.shape, kind), make, [args[1], *indices], [dense])
        return tiling.run(key, choice.make, [args[0], weight], out)
    sums = relax.TensorType([prod(sparse.shape), layer.geometry.lanes], dtype)
    gradient = tiling.run(key, choice.make, args, [dense, sums])[0]
    make = lambda: zeros.compact(sparse, dtypes)  # noqa: E731
    return tiling.run(("compact", sparse.shape, kind), make, [gradient, *indices], out[:1])


def forward(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """y = conv(x, w)."""
    param = attributes(expr)["param"]
    layer = tiling.layers[param]
    x, _ = tiling.tiled(expr.args[0], layer.geometry.x.border)
    args = [x, tiling.plain(expr.args[1])]
    out = [tiling.tiled_type(shape_of(var), dtype_of(var))]
    tiling.bind(var, run_layer(tiling, param, "forward", args, out)[0], 0)


def backward_data(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """dx from dy and w."""
    param = attributes(expr)["param"]
    layer = tiling.layers[param]
    dy, _ = tiling.tiled(expr.args[0], layer.geometry.dy.border)
    args = [dy, tiling.plain(expr.args[1])]
    out = [tiling.tiled_type(shape_of(var), dtype_of(var))]
    tiling.bind(var, run_layer(tiling, param, "backward_data", args, out)[0], 0)


def backward_weight(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """The gradient of w, dense or of compact values; the second output is the kernel's workspace."""
    param = attributes(expr)["param"]
    layer = tiling.layers[param]
    dy, _ = tiling.tiled(expr.args[0], layer.geometry.dy.border)
    x, _ = tiling.tiled(expr.args[1], layer.geometry.x.border)
    shape, dtype = shape_of(var), dtype_of(var)
    out = [relax.TensorType(shape, dtype), relax.TensorType([prod(shape), layer.geometry.lanes], dtype)]
    tiling.values[var].plain = run_layer(tiling, param, "backward_weight", [x, dy], out)[0]


HANDLERS = {
    **dict.fromkeys(("mest.conv2d", "mest.sparse_conv2d"), forward),
    **dict.fromkeys(("mest.conv2d_backward_data", "mest.sparse_conv2d_backward_data"), backward_data),
    **dict.fromkeys(("mest.conv2d_backward_weight", "mest.sparse_conv2d_backward_weight"), backward_weight),
}
