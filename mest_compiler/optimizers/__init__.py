"""Optimisers: a file and a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mest_compiler.errors import MestError

from .adam import Adam
from .adamw import AdamW
from .base import Optimizer
from .sgd import Sgd

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": Sgd,
    "adam": Adam,
    "adamw": AdamW,
}

__all__ = ["OPTIMIZERS", "Adam", "AdamW", "Optimizer", "Sgd", "optimizer_of"]


def optimizer_of(name: str, settings: Mapping[str, Any]) -> Optimizer:
    """The optimiser of this name; settings of others are left.

    Raises:
        MestError: there is none of this name.
    """
    if name not in OPTIMIZERS:
        raise MestError(f"There is no optimiser {name!r}: choose {', '.join(OPTIMIZERS)}.")
    return OPTIMIZERS[name].from_facts(settings)
