"""Activations: ReLU, clipped ReLU (ReLU6, Hardtanh) and clamp, with their gradients."""

import math
from collections.abc import Callable

import numpy as np
import torch
import tvm
from tvm import relax
from tvm.relax import op as R

from .. import ops
from ..emission import Between, Emission, Value
from .registry import Converter, converts

aten = torch.ops.aten


@converts(aten.relu.default)
def relu(emission: Emission, x: relax.Expr) -> relax.Expr:
    return emission.emit(R.nn.relu(x))


@converts(aten.threshold.default)
def threshold(emission: Emission, x: relax.Expr, threshold: float, value: float) -> relax.Expr:
    if (threshold, value) != (0, 0):
        emission.refuse(f"has threshold {threshold} and value {value}; only those of ReLU, 0 and 0, are covered")
    return relu(emission, x)


@converts(aten.threshold_backward.default)
def threshold_backward(emission: Emission, gy: relax.Expr, y: relax.Expr, threshold: float) -> relax.Expr:
    """autograd saves the ReLU's output, of a threshold its input, which is positive at the same places; the gradient
    at 0 is 0.
    """
    if threshold != 0:
        emission.refuse(f"has threshold {threshold}; only that of ReLU, 0, is covered")
    return emission.emit(ops.relu_backward(gy, y))


@converts(aten.hardtanh.default)
def hardtanh(emission: Emission, x: relax.Expr, low: float = -1, high: float = 1) -> relax.Expr:
    y = emission.emit(ops.clip(x, low=low, high=high))
    emission.clipped[x, low, high] = y
    return y


@converts(aten.hardtanh_backward.default)
def hardtanh_backward(emission: Emission, gy: relax.Expr, x: relax.Expr, low: float, high: float) -> relax.Expr:
    """The gradient on both edges is 0, as in PyTorch, so the output tells as much as the input that autograd saves,
    and the input need not be kept.
    """
    y = emission.clipped.get((x, low, high))
    if y is None:
        emission.refuse("has no forward with its input and bounds in this graph")
    return emission.emit(ops.clip_backward(gy, y, low=low, high=high))


@converts(aten.clamp.default)
def clamp(emission: Emission, x: relax.Expr, low: float | None = None, high: float | None = None) -> relax.Expr:
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if low > high:
        emission.refuse(f"has bounds {low} and {high}; the lower one must come first")
    return emission.emit(ops.clip(x, low=low, high=high))


@converts(aten.clamp_min.default)
def clamp_min(emission: Emission, x: relax.Expr, low: float) -> relax.Expr:
    return clamp(emission, x, low)


@converts(aten.clamp_max.default)
def clamp_max(emission: Emission, x: relax.Expr, high: float) -> relax.Expr:
    return clamp(emission, x, None, high)


# PyTorch writes the gradient of clamp as where(low <= x and x <= high, gy, 0); nothing else may read the condition.
def _comparison(bounds: Callable[[float], tuple[float, float]]) -> Converter:
    def convert(emission: Emission, x: relax.Expr, bound: float) -> Between:
        return Between(x, *bounds(bound))

    return convert


converts(aten.ge.Scalar)(_comparison(lambda bound: (bound, math.inf)))
converts(aten.le.Scalar)(_comparison(lambda bound: (-math.inf, bound)))


@converts(aten.logical_and.default)
def logical_and(emission: Emission, a: Value, b: Value) -> Between:
    if not (isinstance(a, Between) and isinstance(b, Between) and a.x.same_as(b.x)):
        emission.refuse("joins other conditions than the bounds of one clamp")
    return Between(a.x, max(a.low, b.low), min(a.high, b.high))


@converts(aten.scalar_tensor.default)
def scalar_tensor(emission: Emission, value: float, **layout: object) -> relax.Expr:
    return relax.const(value, str(emission.node.meta["val"].dtype).removeprefix("torch."))


@converts(aten.where.self)
def where(emission: Emission, condition: Value, gy: Value, other: Value) -> relax.Expr:
    zero = isinstance(other, tvm.ir.Constant) and not np.any(other.value.numpy())
    if not (isinstance(condition, Between) and zero):
        emission.refuse("chooses by another condition than the bounds of a clamp")
    return emission.emit(ops.clamp_backward(emission.tensor(gy), condition.x, low=condition.low, high=condition.high))
