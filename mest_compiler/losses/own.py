"""A loss of one's own: any PyTorch function of what the model returns and of targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mest_compiler.signature import TensorSpec

from .base import ERROR, Loss

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CallableLoss(Loss):
    """function(*outputs, *targets) -> the batch's mean [], or (sum [], weight []): only with the latter are parts of a
    batch that weigh differently exact.

    targets_of: each target's shape without the batch's axis and dtype, by name. error: of each example, [N], from
    NumPy arrays by name; None: there is no metric.
    """

    function: Callable[..., Any]
    targets_of: Mapping[str, TensorSpec] = field(default_factory=dict, hash=False)
    error: Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], np.ndarray] | None = None

    name, metric_name = "callable", ERROR

    def targets(self, outputs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        """As said."""
        return dict(self.targets_of)

    def sums(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | int]:
        """As the function has them; of a mean the weight is the number of examples."""
        found = self.function(*outputs.values(), *targets.values())
        if isinstance(found, tuple):
            return found
        count = len(next(iter(outputs.values())))
        return found * count, count

    def scores(self, outputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Of the function `error`; none where there is none."""
        count = len(next(iter(outputs.values())))
        return np.full(count, np.nan) if self.error is None else self.error(outputs, targets)

    def facts(self) -> dict[str, Any]:
        """Its name, which a file can hold, and that of the function."""
        return {"name": self.name, "function": getattr(self.function, "__qualname__", str(self.function))}
