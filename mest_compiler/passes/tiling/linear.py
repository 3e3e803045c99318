"""Sparse linear layers: 1x1 convolutions over planes whose pixels are the vectors of a batch (see `BatchRows`)."""

from __future__ import annotations

from tvm import relax

from mest_compiler.frontend.ops import attributes
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.schedules.partial import Partial

from ..program import dtype_of, shape_of
from .convolution import run_layer, workspace
from .layout import BatchRows
from .state import Tiling


def linear_geometry(tiling: Tiling, expr: relax.Call) -> ConvGeometry:
    """Geometry of a forward call on x [N, C]."""
    x, dtype = shape_of(expr.args[0]), dtype_of(expr.args[0])
    weight = tiling.specs[attributes(expr)["param"]].shape
    return _layout(tiling, dtype).geometry(x, (x[0], weight[0]), weight, dtype)


def _layout(tiling: Tiling, dtype: str) -> BatchRows:
    return BatchRows(tiling.device.lanes(dtype))


def _in(tiling: Tiling, expr: relax.Expr, g: ConvGeometry) -> relax.Expr:
    """[N, C] -> [1, C * vectors, L]; lanes past the batch are zero."""
    n, c = shape_of(expr)
    vec = tiling.vec(g.dtype)
    out = relax.TensorType(_layout(tiling, g.dtype).tiled((n, c)), g.dtype)
    make = Partial(tiling.generators.elementwise.features_in, n, c, vec)
    return tiling.run(make, [tiling.plain(expr)], [out])[0]


def _out(tiling: Tiling, var: relax.Var, tiled: relax.Expr, g: ConvGeometry) -> None:
    """The way back, as the variable's value."""
    n, c = shape_of(var)
    vec = tiling.vec(g.dtype)
    make = Partial(tiling.generators.elementwise.features_out, n, c, vec)
    tiling.values[var].plain = tiling.run(make, [tiled], [relax.TensorType([n, c], g.dtype)])[0]


def _product(tiling: Tiling, var: relax.Var, expr: relax.Call, direction: str) -> None:
    param = attributes(expr)["param"]
    g = tiling.layers[param].problem.geometry
    args = [_in(tiling, expr.args[0], g), tiling.plain(expr.args[1])]
    out = relax.TensorType(_layout(tiling, g.dtype).tiled(shape_of(var)), g.dtype)
    _out(tiling, var, run_layer(tiling, param, direction, args, [out])[0], g)


def forward(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """y [N, F] = x w^T."""
    _product(tiling, var, expr, "forward")


def backward_data(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """dx [N, C] = dy w."""
    _product(tiling, var, expr, "backward_data")


def backward_weight(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """The gradient of the values."""
    param = attributes(expr)["param"]
    g = tiling.layers[param].problem.geometry
    dy, x = (_in(tiling, arg, g) for arg in expr.args)
    out = [relax.TensorType(shape_of(var), g.dtype), *workspace(tiling, param)]
    tiling.values[var].plain = run_layer(tiling, param, "backward_weight", [x, dy], out)[0]


HANDLERS = {
    "mest.sparse_linear": forward,
    "mest.sparse_linear_backward_data": backward_data,
    "mest.sparse_linear_backward_weight": backward_weight,
}
