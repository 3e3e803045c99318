"""Knobs as MetaSchedule's decisions: sampled on a task's definition, written down there as annotations, read back,
and mutated one at a time."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.schedule import Trace

from mest_compiler.devices import Device

from .definitions import BLOCK
from .tasks import Task

PREFIX = "knob."
Knobs = Mapping[str, int]
Space = Mapping[str, Sequence[int]]


def sample(sch: Schedule, space: Space, knobs: Knobs | None = None) -> None:
    """Samples every knob (or takes those given) and annotates the task's block with its value."""
    block = sch.get_sblock(BLOCK)
    for name, values in space.items():
        decision = None if knobs is None else list(values).index(knobs[name])
        value = sch.sample_categorical(list(values), [1 / len(values)] * len(values), decision=decision)
        sch.annotate(block, PREFIX + name, value)


def scheduled(mod: tvm.IRModule, space: Space, knobs: Knobs) -> Schedule:
    """The definition with these knobs."""
    sch = Schedule(mod)
    sample(sch, space, knobs)
    return sch


def read(mod: tvm.IRModule) -> dict[str, int]:
    """The knobs that a module is annotated with."""
    (function,) = mod.functions.values()
    annotations = function.body.block.body.block.annotations
    return {str(k).removeprefix(PREFIX): int(v) for k, v in annotations.items() if str(k).startswith(PREFIX)}


def of_trace(trace: Any) -> tuple[dict[str, int], bool]:
    """The knobs that a trace in a database's JSON sets, and whether each has the value that its space began with."""
    instructions, decisions = trace
    chosen, values, found, first = dict(map(tuple, decisions)), {}, {}, True
    for number, (kind, inputs, attributes, outputs) in enumerate(instructions):
        if kind == "SampleCategorical":
            values[outputs[0]] = attributes[0][chosen[number]]
            first &= chosen[number] == 0
        elif kind == "Annotate" and attributes[0].startswith(PREFIX):
            found[attributes[0].removeprefix(PREFIX)] = int(values[inputs[1]])
    return found, first


@derived_object
class MutateKnob(ms.mutator.PyMutator):
    """Another value for one knob."""

    def _initialize_with_tune_context(self, context: ms.TuneContext) -> None:
        pass

    def apply(self, trace: Trace, seed: int) -> Trace | None:
        """See MetaSchedule's `Mutator`."""
        rng = random.Random(seed)
        sampled = [inst for inst in trace.insts if inst.kind.name == "SampleCategorical"]
        if not sampled:
            return None
        inst = rng.choice(sampled)
        others = [i for i in range(len(inst.attrs[0])) if i != int(trace.decisions[inst])]
        return trace.with_decision(inst, rng.choice(others), True)

    def clone(self) -> MutateKnob:
        """See MetaSchedule's `Mutator`."""
        return MutateKnob()


@derived_object
class WithinLimits(ms.postproc.PyPostproc):
    """Lets no candidate through that the device's limits forbid: that costs no trial."""

    def __init__(self, task: Task, device: Device) -> None:
        super().__init__()
        self.task, self.device, self.choice = task, device, task.default(device)

    def _initialize_with_tune_context(self, context: ms.TuneContext) -> None:
        pass

    def apply(self, sch: Schedule) -> bool:
        """See MetaSchedule's `Postproc`."""
        return self.task.allows(self.device, read(sch.mod), self.choice)

    def clone(self) -> WithinLimits:
        """See MetaSchedule's `Postproc`."""
        return WithinLimits(self.task, self.device)
