"""Kernels for OpenCL devices, made for a mobile GPU: activations in batch tiles of sixteen quads of lanes."""

from . import accumulate, choose, dropout, elementwise, emit, narrow, normalise, plain, pooling, spaces, update, zeros

__all__ = [
    "accumulate", "choose", "dropout", "elementwise", "emit", "narrow", "normalise", "plain",
    "pooling", "spaces", "update", "zeros",
]  # fmt: skip
