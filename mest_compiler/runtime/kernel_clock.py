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


class _Instrument:
    """What the virtual machine calls. It must not hold the trainer, whose machine holds it: nothing would free them."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.raised: BaseException | None = None
        self.begin()

    def begin(self) -> None:
        """Forgets what was measured."""
        self.ms: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._began: list[float] = []  # a stack: an instrumented function may call another one

    def __call__(self, function: Any, name: str, before: bool, _result: Any, *args: Any) -> int:
        """Before and after each function."""
        try:
            if before:
                if name not in self.sizes:
                    self.sizes[name] = sum(_bytes(arg) for arg in args if isinstance(arg, tvm.runtime.Tensor))
                self._began.append(perf_counter())
            else:
                self.ms[name] += 1e3 * (perf_counter() - self._began.pop())
                self.calls[name] += 1
        except BaseException as error:  # Ctrl-C: on its way through C++ it would become another error
            self.raised = error
            raise
        return 0


class KernelClock:
    """Times the functions of a trainer on this machine's CPU. The instrument stays and adds some microseconds to every
    call, so nothing else is to be timed with that trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._instrument = trainer, _Instrument()
        trainer.session.vm.set_instrument(self._instrument)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of the tensors among a function's arguments, once each, by name: a kernel is made for its shapes."""
        return self._instrument.sizes

    def iteration(self) -> dict[str, Spent]:
        """Runs a step on what the trainer's input buffers hold."""
        heard = self._instrument
        heard.begin()
        try:
            self._trainer.run()
        except Exception:
            raised, heard.raised = heard.raised, None
            if raised is not None:
                raise raised from None
            raise
        return {name: Spent(ms, heard.calls[name]) for name, ms in heard.ms.items()}


def _bytes(tensor: tvm.runtime.Tensor) -> int:
    return prod(tensor.shape) * np.dtype(str(tensor.dtype)).itemsize
