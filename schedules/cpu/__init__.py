"""Kernels for CPUs with vector units: activations in batch tiles of one vector of lanes."""

from . import (
    accumulate,
    dropout,
    elementwise,
    emit,
    narrow,
    normalise,
    normalise_from_sums,
    plain,
    pooling,
    update,
    zeros,
)
from .generators import GENERATORS

REWRITES = frozenset({"forward_sums", "backward_sums", "weight_gradients", "forward_inputs"})
"""Options of a step (see `passes.options`) that there are kernels for."""
STORED = ("float32", "bfloat16")
"""Dtypes that activations may be stored in."""

__all__ = [
    "GENERATORS", "REWRITES", "STORED", "accumulate", "dropout", "elementwise", "emit", "narrow", "normalise",
    "normalise_from_sums", "plain", "pooling", "update", "zeros",
]  # fmt: skip
