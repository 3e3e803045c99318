"""A compiler pass that frees memory between forward and backward: activations that are computed again, or wait narrow.

Which are computed again is one choice of a path of them, on which the cheapest go first; see `fit_memory`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from functools import partial

import tvm
from tvm import relax

from mest_compiler.devices import Device
from mest_compiler.schedules import generators
from mest_compiler.schedules.partial import Partial

from .dataflow import Dataflow, Schedule, Step, StepKind
from .program import KernelTable, Program, carry_body, carry_kernels, rebuild, relax_functions, substitute

FLOPS_PER_BYTE = 4
"""What a core computes while it moves a byte: sparse kernels reach 30-40 GFLOP/s here, element-wise ones 8-10 GB/s."""
BFLOAT16 = "bfloat16"
"""Value of the option `stored` under which activations wait so."""
WORTHWHILE = 1000
"""Tensors smaller than this part of the peak are left alone."""


def price(schedule: Schedule) -> float:
    """How long what a schedule does again takes, in flops."""
    return schedule.extra_flops + schedule.extra_bytes * FLOPS_PER_BYTE


def narrowable(flow: Dataflow, device: Device) -> frozenset[int]:
    """The waiting tensors that can wait as bfloat16: float32 activations in batch tiles."""

    def can(ty: relax.TensorType) -> bool:
        return str(ty.dtype) == "float32" and len(ty.shape) == 3 and int(ty.shape[2]) == device.lanes("float32")

    return frozenset(t for t in flow.waiting if can(flow.types[t]))


def cheapest_first(flow: Dataflow, packed: frozenset[int]) -> Iterator[Schedule]:
    """Schedules of falling peaks: first the one that repeats nothing, last the smallest found.

    Greedy: of the tensors that live at the peak, the one that costs least by byte is dropped next. Each schedule is
    found when it is asked for.
    """
    best = flow.schedule((), packed)
    yield best
    candidates = {t for t in flow.waiting if flow.repeatable(t) and flow.sizes[t] * WORTHWHILE > best.peak}
    ranks = dict.fromkeys(candidates, 0.0)  # by byte; grows as others are dropped, so an old one is a lower bound
    while (best := _next(flow, best, packed, ranks, (candidates - best.dropped) & best.alive_at_peak)) is not None:
        yield best


def trimmed(schedule: Schedule, peak: int) -> Schedule:
    """The schedule without repetitions that later ones of the path made needless: what costs most is spared first, as
    long as the peak stays at most `peak`."""
    flow = schedule.flow

    def with_waiting(best: Schedule, tensor: int) -> Schedule:
        return flow.schedule(best.dropped - {tensor}, best.packed)

    best = schedule
    for tensor in sorted(schedule.dropped, key=lambda t: (price(with_waiting(schedule, t)), t)):
        tried = with_waiting(best, tensor)
        if tried.peak <= peak and price(tried) < price(best):
            best = tried
    return best


def _next(
    flow: Dataflow, best: Schedule, packed: frozenset[int], ranks: dict[int, float], candidates: frozenset[int]
) -> Schedule | None:
    """With one tensor dropped more: the cheapest by byte of those that lower the peak."""
    queue = [(ranks[t], t, None) for t in candidates]
    heapq.heapify(queue)
    while queue:
        _, tensor, tried = heapq.heappop(queue)
        if tried is not None:
            return tried
        tried = flow.schedule({*best.dropped, tensor}, packed)
        ranks[tensor] = (price(tried) - price(best)) / flow.sizes[tensor]
        if tried.peak < best.peak:
            heapq.heappush(queue, (ranks[tensor], tensor, tried))
    return None


@tvm.transform.module_pass(opt_level=0, name="Recompute")
class Recompute:
    """Writes a schedule down as the module's `step`, which is the one that the schedule's dataflow was read from."""

    def __init__(self, device: Device, schedule: Schedule) -> None:
        self.device, self.schedule = device, schedule

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with a step that repeats what does not wait."""
        if not self.schedule.changes_anything:
            return mod
        builder = relax.BlockBuilder()
        kernels = carry_kernels(builder, mod)
        for name, function in relax_functions(mod):
            program, body = Program.of(function), _Writer(self.schedule, kernels, self.device).body
            if name != "step":
                body = partial(carry_body, program=program, env=dict(kernels))
            rebuild(builder, name, program.params, body, program.single)
        return builder.finalize()


class _Writer:
    """Writes a schedule down as the body of a Relax function."""

    def __init__(self, schedule: Schedule, kernels: dict, device: Device) -> None:
        self.schedule, self.flow, self.kernels, self.device = schedule, schedule.flow, kernels, device
        self.made: dict[int, relax.Expr] = {}  # tensor -> what holds it

    def body(self, builder: relax.BlockBuilder) -> list[relax.Expr]:
        """Emits all steps; gives the results."""
        self.builder, self.table = builder, KernelTable(builder)
        flow = self.flow
        for param in flow.program.params:
            self.made[flow.tensors[param][0]] = param
        for step in self.schedule.steps:
            if step.kind is StepKind.FIRST:
                self._compute(step)
            elif step.kind is StepKind.AGAIN:
                self._repeat(step)
            else:
                self._convert(step)
        return [substitute(out, self._env(None)) for out in flow.program.outputs]

    def _env(self, step: Step | None) -> dict:
        """What stands for each variable of the traced step that a step reads."""
        flow, renamed = self.flow, {} if step is None else step.renamed
        env = dict(self.kernels)
        read = flow.program.outputs if step is None else [step.node.expr]
        for var in {v for expr in read for v in flow.variables(expr)}:
            parts = [self.made[renamed.get(t, t)] for t in flow.tensors[var]]
            env[var] = parts[0] if isinstance(var.ty, relax.TensorType) else relax.Tuple(parts)
        return env

    def _bind(self, call: relax.Call, name: str, writes: tuple[int, ...]) -> None:
        result = self.builder.emit(call, name)
        if isinstance(result.ty, relax.TupleType):
            items = [self.builder.emit(relax.TupleGetItem(result, i)) for i in range(len(writes))]
        else:
            items = [result]
        self.made.update(zip(writes, items, strict=True))

    def _compute(self, step: Step) -> None:
        self._bind(substitute(step.node.expr, self._env(step)), step.node.var.name, step.writes)

    def _repeat(self, step: Step) -> None:
        node, flow = step.node, self.flow
        kernel = node.expr.args[0].name_hint
        if kernel not in flow.repeats:
            self._compute(step)
            return
        repeat = flow.repeats[kernel]
        function = self.table.get(repeat.make)
        args = [self.made[t] for t in step.reads]
        self._bind(relax.call_tir(function, args, flow.types[node.writes[0]]), node.var.name, step.writes)

    def _convert(self, step: Step) -> None:
        (source,), (target,) = step.reads, step.writes
        packing = step.kind is StepKind.PACK
        ty = self.flow.types[self.schedule.stands_for(source if packing else target)]
        tiles, size, lanes = (int(n) for n in ty.shape)
        made_by = generators(self.device)
        make = made_by.narrow.pack if packing else made_by.narrow.unpack
        function = self.table.get(Partial(make, tiles, size, made_by.emit.Vec(lanes, "float32")))
        out = relax.TensorType(ty.shape, "uint16") if packing else ty
        self._bind(relax.call_tir(function, [self.made[source]], out), step.kind.value, step.writes)
