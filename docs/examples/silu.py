"""SiLU, the activation of EfficientNet: x * sigmoid(x), and its gradient, in Relax's own operators."""

from __future__ import annotations

import torch
from tvm.relax import op as R

from mest_compiler.frontend.converters.registry import converts

aten = torch.ops.aten


@converts(aten.silu.default)
def silu(emission, x):
    """Any shape."""
    return emission.emit(R.multiply(x, R.sigmoid(x)))


@converts(aten.silu_backward.default)
def silu_backward(emission, gy, x):
    """gy * s * (1 + x * (1 - s)), s = sigmoid(x)."""
    s, one = emission.emit(R.sigmoid(x)), emission.scalar(1.0, x)
    return emission.emit(R.multiply(gy, R.multiply(s, R.add(one, R.multiply(x, R.subtract(one, s))))))
