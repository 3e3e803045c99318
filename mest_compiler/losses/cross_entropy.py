"""Cross-entropy of logits, with label smoothing, as torch.nn.functional.cross_entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mest_compiler.errors import ArtifactError, ModelError
from mest_compiler.signature import TensorSpec

from .base import ACCURACY, LABEL, TARGET, Loss, only

if TYPE_CHECKING:
    import torch


IGNORED = -100
"""Label of examples that do not count, PyTorch's usual one."""
SUM = 2
"""PyTorch's number for the reduction "sum"."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Of logits [N, classes] and labels int64 [N]; label_smoothing: share of a label spread over all classes. Without
    it examples labelled IGNORED do not count."""

    label_smoothing: float = 0.0

    name, metric_name, labelled = "cross_entropy", ACCURACY, True

    def targets(self, outputs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        """A label."""
        logits = only(outputs, "cross-entropy")
        if len(logits.shape) != 1:
            raise ModelError(
                f"The model returns a tensor of shape {['batch', *logits.shape]}, and cross-entropy takes logits "
                "[batch, classes]: let it return those, or choose another loss."
            )
        return {TARGET: LABEL}

    def sums(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | int]:
        """Over the examples that count, and their number."""
        import torch
        import torch.nn.functional as F

        logits, labels = only(outputs, "cross-entropy"), targets[TARGET]
        likely = F.log_softmax(logits, dim=1)
        # What F.cross_entropy calls, which keeps the number of labels that count to itself.
        total, counted = torch.ops.aten.nll_loss_forward(likely, labels, None, SUM, IGNORED)
        if not self.label_smoothing:
            return total, counted
        even = -likely.mean(dim=1).sum(dim=0)
        return (1 - self.label_smoothing) * total + self.label_smoothing * even, len(labels)

    def check(self, targets: Mapping[str, np.ndarray], outputs: Mapping[str, TensorSpec]) -> None:
        """Labels are whole numbers from 0 to classes - 1, or IGNORED where nothing is smoothed."""
        labels, (classes,) = targets[TARGET], only(outputs, "cross-entropy").shape
        if labels.dtype.kind not in "iu":
            raise ArtifactError(f"Labels are whole numbers, and got an array of {labels.dtype}: convert it to int64.")
        labels = labels if self.label_smoothing else labels[labels != IGNORED]
        if labels.size and (labels.min() < 0 or labels.max() >= classes):
            raise ArtifactError(
                f"Labels run from {labels.min()} to {labels.max()}, and the model has the classes 0 to {classes - 1}."
            )

    def scores(self, outputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether the largest logit is that of the label."""
        return only(outputs, "cross-entropy").argmax(1) == targets[TARGET]
