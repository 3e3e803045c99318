"""An optimiser in PyTorch from the formula that its kernels are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch


class Rule(Protocol):
    """What is read of an `Optimizer`; see there."""

    slots: tuple[str, ...]
    hypers: tuple[str, ...]

    def hyper_values(self, step: int, lr: float) -> tuple[float, ...]: ...
    def update(
        self, m: Any, w: torch.Tensor, g: torch.Tensor, slots: Mapping[str, torch.Tensor], h: Mapping[str, float]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]: ...
    def torch_state(self, parameter: torch.Tensor, steps: int) -> dict[str, torch.Tensor]: ...


class _Tensors:
    """An optimiser's numbers as tensors; see `base.Math`."""

    sqrt, select = staticmethod(torch.sqrt), staticmethod(torch.where)

    def __init__(self, like: torch.Tensor) -> None:
        self._like = like

    def const(self, value: float) -> torch.Tensor:
        """Of the weight's type, []."""
        return torch.tensor(value, dtype=self._like.dtype, device=self._like.device)

    def bind(self, value: torch.Tensor) -> torch.Tensor:
        """A tensor is computed once."""
        return value


class TorchOptimizer(torch.optim.Optimizer):
    """Steps of `rule`; its slots are in the state under their own names, beside the number of steps."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], rule: Rule) -> None:
        super().__init__(parameters, {"lr": 0.0})
        self._rule = rule

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rule = self._rule
        for group in self.param_groups:
            for weight in (parameter for parameter in group["params"] if parameter.grad is not None):
                state = self.state[weight]
                if not state:
                    state.update(rule.torch_state(weight, 0))
                state["step"] += 1
                hypers = dict(zip(rule.hypers, rule.hyper_values(int(state["step"]), group["lr"]), strict=True))
                old = {slot: state[slot] for slot in rule.slots}
                new, slots = rule.update(_Tensors(weight), weight, weight.grad, old, hypers)
                weight.copy_(new)
                for slot, value in slots.items():
                    state[slot].copy_(value)
        return loss
