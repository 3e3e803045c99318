"""What a model takes and returns, by name: one tensor alone, or several."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import nn

from mest_compiler.errors import ModelError

from .base import OUTPUT


def arguments_of(
    model: nn.Module, inputs: Mapping[str, torch.Tensor]
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """How a model is called with these inputs, as (positional, by keyword): by their names where its forward has all of
    them, else in their order."""
    known = inspect.signature(model.forward).parameters
    return ((), dict(inputs)) if all(name in known for name in inputs) else (tuple(inputs.values()), {})


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
