"""AdamW (Loshchilov and Hutter, ICLR 2019), as torch.optim.AdamW: weights decay by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .adam import Adam
from .base import Expr, Math

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AdamW(Adam):
    """w -= lr * decay * w, and then a step of Adam."""

    weight_decay: float = 1e-2

    name = "adamw"

    def decay(self, lr: float) -> float:
        """What a step leaves of a weight."""
        return 1 - lr * self.weight_decay

    def update(
        self, m: Math, w: Expr, g: Expr, slots: Mapping[str, Expr], h: Mapping[str, Expr]
    ) -> tuple[Expr, dict[str, Expr]]:
        """New weight and means."""
        return self.moved(m, w * h["decay"] if self.weight_decay else w, g, slots, h)

    def torch(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """torch.optim.AdamW."""
        import torch

        return torch.optim.AdamW(parameters, 0.0, self.betas, self.eps, self.weight_decay)
