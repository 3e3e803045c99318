"""Kernels for OpenCL devices, made for a mobile GPU: activations in batch tiles of sixteen quads of lanes."""

from . import accumulate, choose, dropout, elementwise, emit, narrow, normalise, plain, pooling, spaces, update, zeros

REWRITES: frozenset[str] = frozenset()
"""Options of a step (see `passes.options`) that there are kernels for."""
STORED = ("float32", "float16")
"""Dtypes that activations may be stored in."""

__all__ = [
    "REWRITES", "STORED", "accumulate", "choose", "dropout", "elementwise", "emit", "narrow", "normalise", "plain",
    "pooling", "spaces", "update", "zeros",
]  # fmt: skip
