"""Runs passes one after another, and lets others look on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import tvm

from .step_program import StepProgram

LOG = logging.getLogger(__name__)

StepPass = Callable[[StepProgram], StepProgram]
Watch = Callable[[str, StepProgram], None]
"""watch(name of a pass, what it gave)."""


@dataclass(frozen=True)
class OnModule:
    """A pass of TVM's, or any that changes a module and not what its functions take and give."""

    change: tvm.transform.Pass

    @property
    def name(self) -> str:
        """Of TVM's pass."""
        return str(self.change.info.name)

    def __call__(self, program: StepProgram) -> StepProgram:
        """The program with its module changed."""
        return program.mapped(self.change)


def unwatched(name: str, program: StepProgram) -> None:
    """Looks at nothing."""


def through(program: StepProgram, passes: Iterable[StepPass], watch: Watch = unwatched) -> StepProgram:
    """What is left of the program after all passes."""
    for one in passes:
        name, begin = getattr(one, "name", type(one).__name__), time.perf_counter()
        program = one(program)
        LOG.debug("pass %s: %.0f ms", name, 1e3 * (time.perf_counter() - begin))
        watch(name, program)
    return program
