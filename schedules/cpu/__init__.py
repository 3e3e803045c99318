"""Kernels for CPUs with vector units: activations in batch tiles of one vector of lanes."""

from . import (
    accumulate,
    choose,
    dropout,
    elementwise,
    emit,
    narrow,
    normalise,
    normalise_from_sums,
    plain,
    pooling,
    spaces,
    update,
    zeros,
)

__all__ = [
    "accumulate", "choose", "dropout", "elementwise", "emit", "narrow", "normalise",
    "normalise_from_sums", "plain", "pooling", "spaces", "update", "zeros",
]  # fmt: skip
