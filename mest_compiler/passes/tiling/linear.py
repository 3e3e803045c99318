"""Sparse linear layers: 1x1 convolutions over planes whose pixels are the vectors of a batch.

x [N, C] becomes [1, C * vectors, L]: example n stands in vector n // L, lane n % L, so that a register tile holds many
examples of a feature.
"""

from __future__ import annotations

from tvm import relax

from mest_compiler.frontend.ops import attributes
from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.schedules.partial import Partial

from ..program import dtype_of, shape_of
from .convolution import run_layer, workspace
from .state import Tiling


def linear_geometry(tiling: Tiling, expr: relax.Call) -> ConvGeometry:
    """Geometry of a forward call on x [N, C]."""
    batch, channels = shape_of(expr.args[0])
    filters = tiling.specs[attributes(expr)["param"]].shape[0]
    dtype = dtype_of(expr.args[0])
    lanes = tiling.device.lanes(dtype)
    plane = Plane(1, -(-batch // lanes))
    return ConvGeometry(
        tiles=1, lanes=lanes, channels=channels, filters=filters, kernel=(1, 1), stride=(1, 1),
        padding=(0, 0), dilation=(1, 1), x=plane, y=plane, dy=plane, dx=plane, dtype=dtype,
    )  # fmt: skip


def _in(tiling: Tiling, expr: relax.Expr, g: ConvGeometry) -> relax.Expr:
    """[N, C] -> [1, C * vectors, L]; lanes past the batch are zero."""
    n, c = shape_of(expr)
    vec = tiling.vec(g.dtype)
    out = relax.TensorType([1, c * g.x.size, g.lanes], g.dtype)
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
    out = relax.TensorType([1, shape_of(var)[1] * g.x.size, g.lanes], g.dtype)
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
