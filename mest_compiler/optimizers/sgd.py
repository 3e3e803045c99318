"""SGD with momentum, as torch.optim.SGD."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Expr, Math, Optimizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sgd(Optimizer):
    """g += decay*w; v = momentum*v + g; w -= lr * (g + momentum*v if nesterov else v)."""

    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False

    name, usual_rate = "sgd", 0.1
    torch_keys: ClassVar = {"momentum": "momentum_buffer"}

    def ranges(self) -> dict[str, tuple[bool, str]]:
        """A momentum in [0, 1), and Nesterov's only with one."""
        return {
            "momentum": (0 <= self.momentum < 1, "at least 0 and below 1"),
            "nesterov": (not self.nesterov or self.momentum > 0, "false without momentum"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
        }

    @property
    def slots(self) -> tuple[str, ...]:
        """The momentum, where there is one."""
        return ("momentum",) if self.momentum else ()

    @property
    def hypers(self) -> tuple[str, ...]:
        """Learning rate, momentum, weight decay."""
        return "lr", "momentum", "decay"

    def hyper_values(self, step: int, lr: float) -> tuple[float, ...]:
        """The same in every step."""
        return lr, self.momentum, self.weight_decay

    def update(
        self, m: Math, w: Expr, g: Expr, slots: Mapping[str, Expr], h: Mapping[str, Expr]
    ) -> tuple[Expr, dict[str, Expr]]:
        """New weight and momentum."""
        if self.weight_decay:
            g = m.bind(g + w * h["decay"])
        if not self.momentum:
            return w - h["lr"] * g, {}
        velocity = m.bind(slots["momentum"] * h["momentum"] + g)
        return w - h["lr"] * (g + velocity * h["momentum"] if self.nesterov else velocity), {"momentum": velocity}

    def torch(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """torch.optim.SGD."""
        import torch

        settings = {"momentum": self.momentum, "weight_decay": self.weight_decay, "nesterov": self.nesterov}
        # foreach, the default on a GPU, would add Nesterov's momentum to the gradients that mutation reads.
        return torch.optim.SGD(parameters, lr=0.0, foreach=False if self.nesterov else None, **settings)
