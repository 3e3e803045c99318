"""Kernels for CPUs with vector units: activations in batch tiles of one vector of lanes."""

from . import (
    choose,
    dropout,
    elementwise,
    emit,
    narrow,
    normalise,
    normalise_from_sums,
    plain,
    pooling,
    sgd,
    spaces,
    zeros,
)

REWRITES = frozenset({"forward_sums", "backward_sums", "weight_gradients", "forward_inputs", "stored"})
"""Options of a step (see `passes.options`) that there are kernels for."""

__all__ = [
    "REWRITES", "choose", "dropout", "elementwise", "emit", "narrow", "normalise", "normalise_from_sums", "plain",
    "pooling", "sgd", "spaces", "zeros",
]  # fmt: skip
