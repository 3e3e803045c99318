"""Binary cross-entropy of logits, as torch.nn.functional.binary_cross_entropy_with_logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mest_compiler.errors import ArtifactError
from mest_compiler.signature import TensorSpec

from .base import ACCURACY, TARGET, Loss, only

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BceWithLogits(Loss):
    """Of logits [N, ...] and targets of their shape and dtype, in [0, 1]."""

    name, metric_name = "bce_with_logits", ACCURACY

    def targets(self, outputs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        """As the output."""
        return {TARGET: only(outputs, "a binary cross-entropy")}

    def sums(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | int]:
        """Over all numbers, and how many they are."""
        import torch.nn.functional as F

        logits = only(outputs, "a binary cross-entropy")
        total = F.binary_cross_entropy_with_logits(logits, targets[TARGET], reduction="sum")
        return total, logits.numel()

    def check(self, targets: Mapping[str, np.ndarray], outputs: Mapping[str, TensorSpec]) -> None:
        """Targets are in [0, 1]."""
        target = targets[TARGET]
        if target.size and not 0 <= target.min() <= target.max() <= 1:
            raise ArtifactError(
                f"Targets run from {target.min():g} to {target.max():g}, and a binary cross-entropy takes those "
                "between 0 and 1."
            )

    def scores(self, outputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """The share of an example's numbers that are on the right side."""
        right = (only(outputs, "a binary cross-entropy") > 0) == (targets[TARGET] > 0.5)
        return right.reshape(len(right), -1).mean(1)
