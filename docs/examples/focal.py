"""The focal loss (Lin et al., ICCV 2017, Eq. 4): what a network is sure of counts little."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from mest_compiler.errors import MestError
from mest_compiler.losses.base import ACCURACY, LABEL, TARGET, Loss, only
from mest_compiler.losses.cross_entropy import IGNORED, SUM


@dataclass(frozen=True)
class Focal(Loss):
    """Mean of -(1 - p)^gamma * log(p), p the probability of the label, of logits [N, classes] and labels int64 [N]."""

    gamma: float = 2.0

    name, metric_name, labelled = "focal", ACCURACY, True

    def __post_init__(self):
        if self.gamma < 1:
            raise MestError(f"gamma of a focal loss is at least 1, not {self.gamma:g}.")

    def targets(self, outputs):
        """A label."""
        return {TARGET: LABEL}

    def sums(self, outputs, targets):
        """Over the batch, and its size."""
        likely = F.log_softmax(only(outputs, self.name), dim=1)
        focused = (1 - likely.exp()) ** self.gamma * likely
        return torch.ops.aten.nll_loss_forward(focused, targets[TARGET], None, SUM, IGNORED)

    def scores(self, outputs, targets):
        """Whether the largest logit is that of the label."""
        return only(outputs, self.name).argmax(1) == targets[TARGET]
