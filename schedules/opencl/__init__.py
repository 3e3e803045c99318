"""Kernels for OpenCL devices, made for a mobile GPU: activations in batch tiles of sixteen quads of lanes."""

from . import accumulate, dropout, elementwise, emit, narrow, normalise, plain, pooling, update, zeros

__all__ = [
    "accumulate", "dropout", "elementwise", "emit", "narrow", "normalise", "plain",
    "pooling", "update", "zeros",
]  # fmt: skip
