"""Lion (Chen et al., NeurIPS 2023, Algorithm 2): weights move by the learning rate, against the sign of a mean."""

from __future__ import annotations

from dataclasses import dataclass

from mest_compiler.optimizers import Optimizer


@dataclass(frozen=True)
class Lion(Optimizer):
    """w -= lr * (sign(b1*m + (1-b1)*g) + decay*w); m = b2*m + (1-b2)*g."""

    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    name, usual_rate = "lion", 1e-4
    slots, hypers = ("m",), ("lr", "b1", "c1", "b2", "c2", "decay")

    def ranges(self):
        """Betas in [0, 1), no growth by decay."""
        pair = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        return {
            "betas": (pair, "two numbers, at least 0 and below 1"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
        }

    def hyper_values(self, step, lr):
        """The same in every step."""
        b, c = self.betas
        return lr, b, 1 - b, c, 1 - c, lr * self.weight_decay

    def update(self, m, w, g, slots, h):
        """New weight and mean."""
        ahead, zero = m.bind(slots["m"] * h["b1"] + g * h["c1"]), m.const(0.0)
        sign = m.select(ahead > zero, m.const(1.0), m.select(ahead < zero, m.const(-1.0), zero))
        return w - h["lr"] * sign - h["decay"] * w, {"m": slots["m"] * h["b2"] + g * h["c2"]}
