"""Kernels for OpenCL devices, made for a mobile GPU: activations in batch tiles of sixteen quads of lanes."""

from . import choose, dropout, elementwise, emit, normalise, plain, pooling, sgd, spaces, zeros

REWRITES: frozenset[str] = frozenset()
"""Options of a step (see `passes.options`) that there are kernels for."""

__all__ = [
    "REWRITES", "choose", "dropout", "elementwise", "emit", "normalise", "plain", "pooling", "sgd", "spaces", "zeros",
]  # fmt: skip
