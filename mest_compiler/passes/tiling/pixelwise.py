"""Element-wise operators, biases, dropout and pooling over batch tiles."""

from __future__ import annotations

import operator
from collections.abc import Callable

import tvm
from tvm import relax, tirx

from mest_compiler.frontend.ops import attributes
from mest_compiler.kernels.dropout import Dropout
from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.pool import Pool
from mest_compiler.kernels.vector import Vector
from mest_compiler.schedules.emit import Expr
from mest_compiler.schedules.partial import Partial

from ..program import dtype_of, op_name, shape_of
from .state import Tiling, Value

# operator -> expression on loaded vectors
_BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "relax.add": operator.add,
    "relax.subtract": operator.sub,
    "relax.multiply": operator.mul,
    "relax.divide": operator.truediv,
}


# ---- what is computed of a pixel's vectors: functions of values, since kernels are told apart by them
def _with_number(compute: Callable[[Expr, Expr], Expr], vec: Vector, first: bool, number: float, x: Expr) -> Expr:
    """compute of an operand and a number, which comes first or last."""
    return compute(vec.const(number), x) if first else compute(x, vec.const(number))


def _relu(vec: Vector, x: Expr) -> Expr:
    return vec.at_least(x, vec.const(0))


def _relu_backward(vec: Vector, g: Expr, y: Expr) -> Expr:
    return tirx.Select(y > vec.const(0), g, vec.const(0))


def _clip(vec: Vector, low: float, high: float, x: Expr) -> Expr:
    # Lanes past the batch need not be zero: only gradients are summed over them.
    return vec.at_most(vec.at_least(x, vec.const(low)), vec.const(high))


def _clip_backward(vec: Vector, low: float, high: float, g: Expr, y: Expr) -> Expr:
    zero = vec.const(0)
    return tirx.Select(y > vec.const(low), tirx.Select(y < vec.const(high), g, zero), zero)


def _clamp_backward(vec: Vector, low: float, high: float, g: Expr, x: Expr) -> Expr:
    zero = vec.const(0)
    return tirx.Select(x >= vec.const(low), tirx.Select(x <= vec.const(high), g, zero), zero)


def _scalar(expr: relax.Expr) -> float | None:
    if isinstance(expr, tvm.ir.Constant) and isinstance(expr.ty, relax.TensorType) and not shape_of(expr):
        return float(expr.value.numpy())
    return None


def _pixelwise(
    tiling: Tiling,
    var: relax.Var,
    name: str,
    args: list,
    compute: Callable,
    vectors: list,
) -> None:
    """var = compute(*activations, *channel vectors), written with the border that var's readers need."""
    _, c, h, w = shape_of(var)
    vec = tiling.vec(dtype_of(var))
    tiled = [tiling.tiled(a) for a in args]
    planes, out = [p for _, p in tiled], Plane(h, w, tiling.border_of(var))
    tiles = tiling.layout(vec.dtype).tiles(shape_of(var))
    (result,) = tiling.run(
        Partial(tiling.generators.elementwise.elementwise, name, tiles, c, planes, out, vec, compute, len(vectors)),
        [*[t for t, _ in tiled], *vectors],
        [tiling.tiled_type(shape_of(var), vec.dtype, out.border)],
    )
    tiling.bind(var, result, out.border)


def _same_activations(var: relax.Var, args: list[relax.Expr]) -> bool:
    return all(
        len(shape_of(a)) == 4 and shape_of(a) == shape_of(var) and dtype_of(a).startswith("float") for a in (var, *args)
    )


def binary(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """Two activations of one shape, or one and a scalar constant; anything else is not tiled here."""
    name, args = op_name(expr), list(expr.args)
    compute, short = _BINARY[name], name.removeprefix("relax.")
    numbers = [_scalar(a) for a in args]
    activations = [a for a, s in zip(args, numbers, strict=True) if s is None]
    if not activations or not _same_activations(var, activations):
        return False
    if name == "relax.divide" and numbers[1] is None and shape_of(var)[0] % tiling.vec(dtype_of(var)).lanes:
        return False  # lanes past the batch hold zeros: 0 / 0 there would reach the weight gradients
    if len(activations) == 2:
        _pixelwise(tiling, var, short, args, compute, [])
        return True
    vec = tiling.vec(dtype_of(var))
    first = numbers[0] is not None
    one = Partial(_with_number, compute, vec, first, numbers[0] if first else numbers[1])
    _pixelwise(tiling, var, short, activations, one, [])
    return True


def relu(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """max(x, 0)."""
    if not _same_activations(var, list(expr.args)):
        return False
    _pixelwise(tiling, var, "relu", list(expr.args), Partial(_relu, tiling.vec(dtype_of(var))), [])
    return True


def relu_backward(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """gy where y > 0."""
    if not _same_activations(var, list(expr.args)):
        return False
    _pixelwise(tiling, var, "relu_backward", list(expr.args), Partial(_relu_backward, tiling.vec(dtype_of(var))), [])
    return True


def _bounded(tiling: Tiling, var: relax.Var, expr: relax.Call, name: str, compute: Callable[..., Expr]) -> bool:
    """An operator with a lower and an upper bound."""
    if not _same_activations(var, list(expr.args)):
        return False
    a = attributes(expr)
    bound = Partial(compute, tiling.vec(dtype_of(var)), a["low"], a["high"])
    _pixelwise(tiling, var, name, list(expr.args), bound, [])
    return True


def clip(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """At least the lower bound, at most the upper one."""
    return _bounded(tiling, var, expr, "clip", _clip)


def clip_backward(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """gy where low < y < high."""
    return _bounded(tiling, var, expr, "clip_backward", _clip_backward)


def clamp_backward(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """gy where low <= x <= high."""
    return _bounded(tiling, var, expr, "clamp_backward", _clamp_backward)


def dropout(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """x / (1 - p) where the step's seed keeps it, else 0; forward and backward."""
    if not _same_activations(var, [expr.args[0]]):
        return False
    a, vec = attributes(expr), tiling.vec(dtype_of(var))
    _, c, h, w = shape_of(var)
    x, plane = tiling.tiled(expr.args[0])
    out = Plane(h, w, tiling.border_of(var))
    d = Dropout(tiling.layout(vec.dtype).tiles(shape_of(var)), c, vec, plane, out, a["p"], a["layer"])
    (y,) = tiling.run(
        Partial(tiling.generators.dropout.dropout, d),
        [x, tiling.plain(expr.args[1])],
        [tiling.tiled_type(shape_of(var), vec.dtype, out.border)],
    )
    tiling.bind(var, y, out.border)
    return True


def bias_add(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """x + b[channel]."""
    _pixelwise(tiling, var, "bias_add", [expr.args[0]], operator.add, [tiling.plain(expr.args[1])])
    return True


def bias_grad(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """Sum over batch and pixels: padded lanes of a gradient are zero."""
    x, plane = tiling.tiled(expr.args[0])
    _, c, _, _ = shape_of(expr.args[0])
    vec = tiling.vec(dtype_of(var))
    tiles = tiling.layout(vec.dtype).tiles(shape_of(expr.args[0]))
    (tiling.values[var].plain,) = tiling.run(
        Partial(tiling.generators.elementwise.channel_sum, tiles, c, plane, vec),
        [x],
        [relax.TensorType([c], vec.dtype)],
    )
    return True


def global_avg_pool(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """[N, C, H, W] -> [N, C], which leaves the tiled layout."""
    x, plane = tiling.tiled(expr.args[0])
    n, c, _, _ = shape_of(expr.args[0])
    vec = tiling.vec(dtype_of(var))
    (tiling.values[var].plain,) = tiling.run(
        Partial(tiling.generators.elementwise.plane_mean, n, c, plane, vec),
        [x],
        [relax.TensorType([n, c], vec.dtype)],
    )
    return True


def spatial_broadcast(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """[N, C] -> [N, C, H, W], which enters the tiled layout."""
    n, c, h, w = shape_of(var)
    plane, vec = Plane(h, w, tiling.border_of(var)), tiling.vec(dtype_of(var))
    (result,) = tiling.run(
        Partial(tiling.generators.elementwise.plane_broadcast, n, c, plane, vec),
        [tiling.plain(expr.args[0])],
        [tiling.tiled_type(shape_of(var), vec.dtype, plane.border)],
    )
    tiling.bind(var, result, plane.border)
    return True


def _pool(tiling: Tiling, expr: relax.Call, vec: Vector, x: Plane, y: Plane, shape: tuple[int, ...]) -> Pool:
    a = attributes(expr)
    window = [tuple(a.get(k, (1, 1))) for k in ("kernel", "stride", "padding", "dilation")]
    return Pool(tiling.layout(vec.dtype).tiles(shape), shape[1], vec, x, y, *window)


def max_pool(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """(y, index)."""
    shape, dtype = tuple(attributes(expr)["oshape"]), dtype_of(expr.args[0])
    vec = tiling.vec(dtype)
    if vec.lanes != tiling.vec("int32").lanes and dtype != "float64":
        return False
    x, plane = tiling.tiled(expr.args[0])
    p = _pool(tiling, expr, vec, plane, Plane(*shape[2:], tiling.border_of(var, 0)), shape)
    index = relax.TensorType([p.tiles, p.channels * shape[2] * shape[3], vec.lanes], "int32")
    y, where = tiling.run(
        Partial(tiling.generators.pooling.forward, p),
        [x],
        [tiling.tiled_type(shape, dtype, p.y.border), index],
    )
    tiling.tuples[var] = [
        tiling.activation(y, shape, dtype, p.y.border),
        Value(None, {0: where}, shape, "int32"),
    ]
    return True


def max_pool_backward(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """The gradient of a pooling's input."""
    gy, plane = tiling.tiled(expr.args[0])
    index = tiling.value(expr.args[1]).tiled[0]
    shape, vec = shape_of(var), tiling.vec(dtype_of(var))
    p = _pool(tiling, expr, vec, Plane(*shape[2:], tiling.border_of(var)), plane, shape)
    (dx,) = tiling.run(
        Partial(tiling.generators.pooling.backward, p),
        [gy, index],
        [tiling.tiled_type(shape, vec.dtype, p.x.border)],
    )
    tiling.bind(var, dx, p.x.border)
    return True


def avg_pool(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """The mean of every window."""
    x, plane = tiling.tiled(expr.args[0])
    shape, vec, divisor = shape_of(var), tiling.vec(dtype_of(var)), attributes(expr)["divisor"]
    p = _pool(tiling, expr, vec, plane, Plane(*shape[2:], tiling.border_of(var)), shape)
    (y,) = tiling.run(
        Partial(tiling.generators.pooling.average, p, divisor),
        [x],
        [tiling.tiled_type(shape, vec.dtype, p.y.border)],
    )
    tiling.bind(var, y, p.y.border)
    return True


def avg_pool_backward(tiling: Tiling, var: relax.Var, expr: relax.Call) -> bool:
    """The gradient of an average pooling's input."""
    gy, plane = tiling.tiled(expr.args[0])
    shape, vec, divisor = shape_of(var), tiling.vec(dtype_of(var)), attributes(expr)["divisor"]
    p = _pool(tiling, expr, vec, Plane(*shape[2:], tiling.border_of(var)), plane, shape)
    (dx,) = tiling.run(
        Partial(tiling.generators.pooling.average_backward, p, divisor),
        [gy],
        [tiling.tiled_type(shape, vec.dtype, p.x.border)],
    )
    tiling.bind(var, dx, p.x.border)
    return True


HANDLERS = {
    **dict.fromkeys(_BINARY, binary),
    "relax.nn.relu": relu,
    "mest.relu_backward": relu_backward,
    "mest.clip": clip,
    "mest.clip_backward": clip_backward,
    "mest.clamp_backward": clamp_backward,
    "mest.dropout": dropout,
    "mest.bias_add": bias_add,
    "mest.bias_grad": bias_grad,
    "mest.global_avg_pool": global_avg_pool,
    "mest.spatial_broadcast": spatial_broadcast,
    "mest.max_pool2d": max_pool,
    "mest.max_pool2d_backward": max_pool_backward,
    "mest.avg_pool2d": avg_pool,
    "mest.avg_pool2d_backward": avg_pool_backward,
}
