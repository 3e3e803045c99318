"""Activations: ReLU and clipped ReLU (ReLU6, Hardtanh) with their gradients."""

import torch
from tvm import relax
from tvm.relax import op as R

from .. import ops
from ..emission import Emission
from .registry import converts

aten = torch.ops.aten


@converts(aten.relu.default)
def relu(emission: Emission, x: relax.Expr) -> relax.Expr:
    return emission.emit(R.nn.relu(x))


@converts(aten.threshold_backward.default)
def threshold_backward(emission: Emission, gy: relax.Expr, y: relax.Expr, threshold: float) -> relax.Expr:
    """autograd saves the ReLU's output, not its input; the gradient at 0 is 0."""
    if threshold != 0:
        emission.refuse(f"has threshold {threshold}; only that of ReLU, 0, is covered")
    return emission.emit(ops.relu_backward(gy, y))


@converts(aten.hardtanh.default)
def hardtanh(emission: Emission, x: relax.Expr, low: float = -1, high: float = 1) -> relax.Expr:
    return emission.emit(R.clip(x, low, high))


@converts(aten.hardtanh_backward.default)
def hardtanh_backward(emission: Emission, gy: relax.Expr, x: relax.Expr, low: float, high: float) -> relax.Expr:
    """The gradient on both edges is 0, as in PyTorch."""
    above = R.greater(x, emission.scalar(low, x))
    below = R.less(x, emission.scalar(high, x))
    return emission.emit(R.where(R.logical_and(above, below), gy, emission.scalar(0, gy)))
