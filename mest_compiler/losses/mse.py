"""The mean squared error, as torch.nn.functional.mse_loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mest_compiler.signature import TensorSpec

from .base import ERROR, TARGET, Loss, only

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Mse(Loss):
    """Of an output [N, ...] and a target of its shape and dtype."""

    name, metric_name = "mse", ERROR

    def targets(self, outputs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        """As the output."""
        return {TARGET: only(outputs, "a squared error")}

    def sums(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | int]:
        """Over all numbers, and how many they are."""
        apart = only(outputs, "a squared error") - targets[TARGET]
        return (apart * apart).sum(), apart.numel()

    def scores(self, outputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """The mean squared error of each example."""
        apart = np.asarray(only(outputs, "a squared error"), np.float64) - targets[TARGET]
        return (apart**2).reshape(len(apart), -1).mean(1)
