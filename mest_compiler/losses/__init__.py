"""Losses: a file and a line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mest_compiler.errors import MestError

from .base import Loss
from .bce import BceWithLogits
from .cross_entropy import CrossEntropy
from .mse import Mse
from .own import CallableLoss

LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "mse": Mse,
    "bce_with_logits": BceWithLogits,
}

__all__ = ["LOSSES", "BceWithLogits", "CallableLoss", "CrossEntropy", "Loss", "Mse", "loss_of"]


def loss_of(name: str, settings: Mapping[str, Any]) -> Loss:
    """The loss of this name; settings of others are left.

    Raises:
        MestError: there is none of this name.
    """
    if name not in LOSSES:
        raise MestError(f"There is no loss {name!r}: choose {', '.join(LOSSES)}.")
    kind = LOSSES[name]
    return kind(**{field.name: settings[field.name] for field in fields(kind) if field.name in settings})
