"""What each ATen operator becomes in Relax: one file an operator family, one function an operator."""

from . import activation, batch_norm, convolution, dropout, elementwise, linear, loss, pooling, reduction, shape
from .registry import CONVERTERS

__all__ = [
    "CONVERTERS",
    "activation",
    "batch_norm",
    "convolution",
    "dropout",
    "elementwise",
    "linear",
    "loss",
    "pooling",
    "reduction",
    "shape",
]
