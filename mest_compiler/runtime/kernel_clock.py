"""How long each function of a step takes, by the virtual machine's instrument."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from time import perf_counter
from typing import Any

import numpy as np
import tvm

from .trainer import Trainer


@dataclass(frozen=True)
class Spent:
    """Wall time of a function's calls in one iteration, in ms, and how many there were."""

    ms: float
    calls: int


class KernelClock:
    """Times the functions of a trainer on this machine's CPU. The instrument stays and adds some microseconds to every
    call, so nothing else is to be timed with that trainer.

    sizes: bytes of the tensors among a function's arguments, once each, by name: a kernel is made for its shapes.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.sizes: dict[str, int] = {}
        self._began: list[float] = []  # a stack: an instrumented function may call another one
        self._ms: dict[str, float] = {}
        self._calls: dict[str, int] = {}
        trainer.session.vm.set_instrument(self._hear)

    def iteration(self) -> dict[str, Spent]:
        """Runs a step on what the trainer's input buffers hold."""
        self._ms, self._calls = defaultdict(float), defaultdict(int)
        self._trainer.run()
        return {name: Spent(ms, self._calls[name]) for name, ms in self._ms.items()}

    def _hear(self, function: Any, name: str, before: bool, _result: Any, *args: Any) -> int:
        if before:
            if name not in self.sizes:
                self.sizes[name] = sum(_bytes(arg) for arg in args if isinstance(arg, tvm.runtime.Tensor))
            self._began.append(perf_counter())
        else:
            self._ms[name] += 1e3 * (perf_counter() - self._began.pop())
            self._calls[name] += 1
        return 0


def _bytes(tensor: tvm.runtime.Tensor) -> int:
    return prod(tensor.shape) * np.dtype(str(tensor.dtype)).itemsize
