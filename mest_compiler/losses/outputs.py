"""What a model takes and returns, by name: one tensor alone, or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mest_compiler.errors import ModelError

from .base import OUTPUT


def outputs_of(returned: object) -> dict[str, torch.Tensor]:
    """What a model returns by name: one tensor is "output", those of a tuple are "output0", "output1", ..., those of a
    dict have its keys.

    Raises:
        ModelError: it returns something else.
    """
    if isinstance(returned, torch.Tensor):
        return {OUTPUT: returned}
    found = returned
    if isinstance(returned, tuple | list):
        found = {f"{OUTPUT}{i}": value for i, value in enumerate(returned)}
    if not isinstance(found, dict) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise ModelError(
            f"the model returns {type(returned).__name__}; it must return a tensor, or a tuple or a dict of tensors"
        )
    return {str(name): value for name, value in found.items()}


def named(arrays: Any, name: str) -> dict[str, Any]:
    """Arrays by name, as they are, or one alone under this name."""
    return dict(arrays) if isinstance(arrays, Mapping) else {name: arrays}


def alone(arrays: Mapping[str, Any]) -> Any:
    """The only array, or all by name."""
    return dict(arrays) if len(arrays) > 1 else next(iter(arrays.values()))
