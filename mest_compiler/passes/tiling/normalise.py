"""Whole normalisations over batch tiles: running statistics are updated in place."""

from __future__ import annotations

from tvm import relax

from mest_compiler.frontend.ops import attributes
from mest_compiler.kernels.geometry import Plane
from mest_compiler.schedules.cpu import normalise
from mest_compiler.schedules.cpu.normalise import Normalisation

from ..program import dtype_of, shape_of
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
    kernel = tiling.kernels.get(
        ("normalise", n, a["momentum"], a["eps"]), lambda: normalise.forward(n, a["momentum"], a["eps"])
    )
    result = tiling.builder.emit(
        relax.op.call_tir_inplace(
            kernel,
            [x, *vectors, *([residual] if residual is not None else [])],
            [-1, -1, -1, 3, 4],
            [tiling.tiled_type(shape, dtype, border), *[vector] * 4],
        )
    )
    outputs = [tiling.builder.emit(relax.TupleGetItem(result, i)) for i in range(5)]
    tiling.tuples[var] = [
        tiling.activation(outputs[0], shape, dtype, border),
        *[Value(v, {}, (n.channels,), dtype) for v in outputs[1:]],
    ]


def inference(tiling: Tiling, var: relax.Var, expr: relax.Call) -> None:
    """With running statistics: z."""
    a = attributes(expr)
    x, plane = tiling.tiled(expr.args[0])
    residual, residual_plane = tiling.tiled(expr.args[5]) if a["residual"] else (None, None)
    n = _shape(tiling, expr, plane, tiling.border_of(var), residual_plane)
    args = [x, *[tiling.plain(v) for v in expr.args[1:5]], *([residual] if residual is not None else [])]
    out = [tiling.tiled_type(shape_of(var), dtype_of(var), n.z.border)]
    (z,) = tiling.run(("normalise_inference", n, a["eps"]), lambda: normalise.inference(n, a["eps"]), args, out)
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
    args = [
        *[g for g, _ in gradients],
        x,
        *([z] if z is not None else []),
        *[tiling.plain(v) for v in expr.args[1:5]],
    ]
    vector = relax.TensorType([n.channels], dtype)
    out = [tiling.tiled_type(shape, dtype, dx.border), vector, vector]
    outputs = tiling.run(
        ("normalise_backward", n, tuple(planes), dx, keep), lambda: normalise.backward(n, planes, dx, keep), args,
        out + ([tiling.tiled_type(shape, dtype)] if keep else []),
    )  # fmt: skip
    tiling.tuples[var] = [
        tiling.activation(outputs[0], shape, dtype, dx.border),
        *[Value(v, {}, (n.channels,), dtype) for v in outputs[1:3]],
        *([tiling.activation(outputs[3], shape, dtype, 0)] if keep else []),
    ]


HANDLERS = {
    "mest.normalise": forward,
    "mest.normalise_inference": inference,
    "mest.normalise_backward": backward,
}
