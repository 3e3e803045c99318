"""A compiler pass that frees memory between forward and backward: activations that are computed again, or wait narrow.

What is computed again follows from a limit on the bytes that live at the same time; the cheapest go first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

import tvm
from tvm import relax

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.schedules.cpu import narrow
from mest_compiler.schedules.cpu.emit import Vec

from .dataflow import PACK, Dataflow, Repeat, Schedule, Step
from .program import KernelTable, Program, carry_kernels, rebuild, relax_functions, substitute

FLOPS_PER_BYTE = 4
"""What a core computes while it moves a byte: sparse kernels reach 30-40 GFLOP/s here, element-wise ones 8-10 GB/s."""
WORTHWHILE = 1000
"""Tensors smaller than this part of the peak are left alone."""


def price(schedule: Schedule) -> float:
    """How long what a schedule does again takes, in flops."""
    return schedule.extra_flops + schedule.extra_bytes * FLOPS_PER_BYTE


def choose(flow: Dataflow, limit: int | None, packed: frozenset[int]) -> Schedule:
    """The schedule whose peak is at most `limit` bytes, or else the smallest found; no limit: nothing is repeated.

    Greedy: of the tensors that live at the peak, the one that costs least by byte is dropped, until the peak fits.
    """
    best = flow.schedule((), packed)
    if limit is None:
        return best
    candidates = {t for t in flow.waiting if flow.repeatable(t) and flow.sizes[t] * WORTHWHILE > best.peak}
    ranks = dict.fromkeys(candidates, 0.0)  # by byte; grows as others are dropped, so an old one is a lower bound
    while best.peak > limit:
        found = _next(flow, best, packed, ranks, (candidates - best.dropped) & best.alive_at_peak)
        if found is None:
            return best
        best = found
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
    """Rewrites `step` after TileBatch; afterwards `schedule` says how.

    limit: bytes that its tensors may take at the same time, None for no limit. narrow: activations wait as bfloat16.
    repeats, flops: of the kernels, by name.
    """

    def __init__(
        self, device: CpuProfile, limit: int | None, narrow: bool, repeats: Mapping[str, Repeat],
        flops: Callable[[str], float],
    ) -> None:  # fmt: skip
        self.device, self.limit, self.narrow, self.repeats, self.flops = device, limit, narrow, repeats, flops
        self.schedule: Schedule | None = None

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with a step that repeats what does not wait."""
        flow = Dataflow(Program.of(mod["step"]), self.repeats, self.flops)
        packed = frozenset(t for t in flow.waiting if self._can_be_narrow(flow, t)) if self.narrow else frozenset()
        self.schedule = choose(flow, self.limit, packed)
        if not self.schedule.dropped and not packed:
            return mod
        builder = relax.BlockBuilder()
        kernels = carry_kernels(builder, mod)
        for name, function in relax_functions(mod):
            program = Program.of(function)
            single = not isinstance(program.result, relax.Tuple)
            body = _Writer(self.schedule, kernels, self.device).body if name == "step" else _copied(program, kernels)
            rebuild(builder, name, program.params, body, single)
        return builder.finalize()

    def _can_be_narrow(self, flow: Dataflow, tensor: int) -> bool:
        ty = flow.types[tensor]
        return str(ty.dtype) == "float32" and len(ty.shape) == 3 and int(ty.shape[2]) == self.device.lanes("float32")


def _copied(program: Program, kernels: dict) -> Callable[[relax.BlockBuilder], list[relax.Expr]]:
    def body(builder: relax.BlockBuilder) -> list[relax.Expr]:
        env = dict(kernels)
        for var, expr in program.bindings:
            env[var] = builder.emit(substitute(expr, env), var.name)
        return [substitute(out, env) for out in program.outputs]

    return body


class _Writer:
    """Writes a schedule down as the body of a Relax function."""

    def __init__(self, schedule: Schedule, kernels: dict, device: CpuProfile) -> None:
        self.schedule, self.flow, self.kernels, self.device = schedule, schedule.flow, kernels, device
        self.made: dict[int, relax.Expr] = {}  # tensor -> what holds it

    def body(self, builder: relax.BlockBuilder) -> list[relax.Expr]:
        """Emits all steps; gives the results."""
        self.builder, self.table = builder, KernelTable(builder)
        flow = self.flow
        for param in flow.program.params:
            self.made[flow.tensors[param][0]] = param
        for step in self.schedule.steps:
            if step.node is None:
                self._convert(step)
            elif step.repeated:
                self._repeat(step)
            else:
                self._bind(substitute(step.node.expr, self._env(step)), step.node.var.name, step.writes)
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

    def _repeat(self, step: Step) -> None:
        node, flow = step.node, self.flow
        kernel = node.expr.args[0].name_hint
        if kernel not in flow.repeats:
            self._bind(substitute(node.expr, self._env(step)), node.var.name, step.writes)
            return
        repeat = flow.repeats[kernel]
        function = self.table.get(repeat.key, repeat.make)
        args = [self.made[t] for t in step.reads]
        self._bind(relax.call_tir(function, args, flow.types[node.writes[0]]), node.var.name, step.writes)

    def _convert(self, step: Step) -> None:
        (source,), (target,) = step.reads, step.writes
        ty = self.flow.types[self.schedule.stands_for(source if step.kind == PACK else target)]
        tiles, size, lanes = (int(n) for n in ty.shape)
        make = narrow.pack if step.kind == PACK else narrow.unpack
        key = (step.kind, tiles, size, lanes)
        function = self.table.get(key, lambda: make(tiles, size, Vec(lanes, "float32")))
        out = relax.TensorType(ty.shape, "uint16") if step.kind == PACK else ty
        self._bind(relax.call_tir(function, [self.made[source]], out), step.kind, step.writes)
