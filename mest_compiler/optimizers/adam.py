"""Adam (Kingma and Ba, ICLR 2015), as torch.optim.Adam: weight decay is part of the gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Expr, Math, Optimizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Adam(Optimizer):
    """m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g^2; w -= lr / (1-b1^t) * m / (sqrt(v / (1-b2^t)) + eps)."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    name, usual_rate = "adam", 1e-3
    torch_keys: ClassVar = {"m": "exp_avg", "v": "exp_avg_sq"}

    def ranges(self) -> dict[str, tuple[bool, str]]:
        """Betas in [0, 1), the others at least 0."""
        pair = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        return {
            "betas": (pair, "two numbers, at least 0 and below 1"),
            "eps": (self.eps >= 0, "at least 0"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
        }

    @property
    def slots(self) -> tuple[str, ...]:
        """Means of the gradients and of their squares."""
        return "m", "v"

    @property
    def hypers(self) -> tuple[str, ...]:
        """1 - beta stands beside beta: taken from it in single precision, 0.001 would be off by 5e-5 of itself."""
        return "rate", "b1", "c1", "b2", "c2", "root", "eps", "decay"

    def hyper_values(self, step: int, lr: float) -> tuple[float, ...]:
        """Those of step t, with the corrections of both means."""
        b, c = self.betas
        return lr / (1 - b**step), b, 1 - b, c, 1 - c, (1 - c**step) ** -0.5, self.eps, self.decay(lr)

    def decay(self, lr: float) -> float:
        """Factor of the weight where it decays."""
        return self.weight_decay

    def update(
        self, m: Math, w: Expr, g: Expr, slots: Mapping[str, Expr], h: Mapping[str, Expr]
    ) -> tuple[Expr, dict[str, Expr]]:
        """New weight and means."""
        return self.moved(m, w, m.bind(g + w * h["decay"]) if self.weight_decay else g, slots, h)

    def moved(
        self, m: Math, w: Expr, g: Expr, slots: Mapping[str, Expr], h: Mapping[str, Expr]
    ) -> tuple[Expr, dict[str, Expr]]:
        """A step of Adam along a gradient."""
        mean = m.bind(slots["m"] * h["b1"] + g * h["c1"])
        square = m.bind(slots["v"] * h["b2"] + g * g * h["c2"])
        return w - h["rate"] * (mean / (m.sqrt(square) * h["root"] + h["eps"])), {"m": mean, "v": square}

    def torch(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """torch.optim.Adam."""
        import torch

        return torch.optim.Adam(parameters, 0.0, self.betas, self.eps, self.weight_decay)
