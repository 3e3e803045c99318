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

__all__ = [
    "accumulate", "dropout", "elementwise", "emit", "narrow", "normalise",
    "normalise_from_sums", "plain", "pooling", "update", "zeros",
]  # fmt: skip
