"""Kernels for OpenCL devices, made for a mobile GPU: activations in batch tiles of sixteen quads of lanes."""

from . import accumulate, dropout, elementwise, emit, narrow, normalise, plain, pooling, update, zeros
from .generators import GENERATORS

REWRITES: frozenset[str] = frozenset()
"""Options of a step (see `passes.options`) that there are kernels for."""
STORED = ("float32", "float16")
"""Dtypes that activations may be stored in."""

__all__ = [
    "GENERATORS", "REWRITES", "STORED", "accumulate", "dropout", "elementwise", "emit", "narrow", "normalise", "plain",
    "pooling", "update", "zeros",
]  # fmt: skip
