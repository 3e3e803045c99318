"""The rule of SGD with momentum, as expressions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

Expr = Any  # a tirx.PrimExpr or a Python number


@dataclass(frozen=True)
class Sgd:
    """PyTorch's SGD: g += decay*w; v = momentum*v + g; w -= lr * (g + momentum*v if nesterov else v)."""

    momentum: float
    weight_decay: float
    nesterov: bool

    def update(self, w: Expr, v: Expr, g: Expr, constant) -> tuple[Expr, Expr]:
        """(step direction, new momentum); `constant` makes a number of the operands' type."""
        if self.weight_decay:
            g = T.Bind(g + w * constant(self.weight_decay))
        velocity = T.Bind(v * constant(self.momentum) + g) if self.momentum else g
        return (g + velocity * constant(self.momentum) if self.nesterov else velocity), velocity
