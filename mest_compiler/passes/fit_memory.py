"""From a traced step to one whose memory is planned, under a limit where there is one.

A limit is met by computing activations again, and where that is not enough by micro-batches: the largest that fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mest_compiler.devices import Device
from mest_compiler.errors import MemoryLimitError
from mest_compiler.frontend import TrainingGraph
from mest_compiler.optimizers import Optimizer
from mest_compiler.signature import STEP, UPDATE, Role
from mest_compiler.sparsity.layer_spec import SparseLayerSpec

from .append_optimizer import RESULTS
from .dataflow import Dataflow, Schedule
from .half_storage import FLOAT16, stores_half
from .options import StepOptions
from .pipeline import finish, plan, probable, tile
from .program import Program
from .recompute import BFLOAT16, cheapest_first, narrowable, trimmed
from .run import Watch, unwatched
from .step_program import StepProgram
from .tiling.plan import Pick

SCALARS = 32
"""Bytes at most of the seed of a step, the two flags of micro-batches, and the constants that a loss brings along."""

HOST_BYTES, HOST_BYTES_EACH = 256 * 1024, 2 * 1024
"""What the program's and Python's own objects take beside the plan, and for each parameter; generous: 0.13 to 0.24 MB
were measured for ResNet-32 with its 98, 0.6 MB for ResNet-110 with its 332 (`mest profile MODEL --memory`)."""


def host_bytes(parameters: int) -> int:
    """Bytes of a limit that are left to what is not planned, for a model with so many parameters."""
    return HOST_BYTES + HOST_BYTES_EACH * parameters


@dataclass(frozen=True)
class Fitted:
    """A step whose memory is planned. tiled: what it was lowered from. schedule: what of it is done again. parts:
    micro-batches of a whole batch. memory: bytes by kind ("weights", "gradients", "optimizer", "indices",
    "activations", "workspace", "data"), as a manifest has them. stored: dtype that activations wait in, where it is not
    their own."""

    graph: TrainingGraph
    tiled: StepProgram
    schedule: Schedule
    lowered: StepProgram
    planned: StepProgram
    parts: int
    memory: dict[str, int]
    stored: str

    @property
    def peak(self) -> int:
        """Bytes of all training memory."""
        return sum(self.memory.values())

    def describe(self) -> dict[str, Any]:
        """As a manifest has it: what is planned, and what is done for it."""
        recomputed: dict[str, int] = {}
        for kernel, size in self.schedule.dropped_kernels():
            recomputed[kernel] = recomputed.get(kernel, 0) + size
        return {
            "planned": self.memory,
            "planned_peak": self.peak,
            "micro_batch": self.graph.batch,
            "micro_batches": self.parts,
            "recomputed": recomputed,
            "stored": self.stored,
        }


@dataclass(frozen=True)
class Fitter:
    """What all attempts have in common."""

    specs: Mapping[str, SparseLayerSpec]
    rule: Optimizer
    device: Device
    options: StepOptions
    watch: Watch = unwatched

    def fit(
        self, graph: TrainingGraph, batch: int, trace: Callable[[int], TrainingGraph], pick: Pick = probable
    ) -> Fitted:
        """The step of a graph that was traced with the batch or with the given micro-batch, with memory planned.

        trace: gives the graph for fewer examples at a time. pick: chooses the kernels of the one that fits.

        Raises:
            MemoryLimitError: nothing fits.
        """
        if self.options.memory_limit is None:
            return self._under(math.inf, graph, batch // graph.batch, pick)
        host = host_bytes(len(graph.parameters))
        limit, smallest = self.options.memory_limit - host, None
        for size in self._sizes(graph.batch, batch):
            traced = graph if size == graph.batch else trace(size)
            found = self._under(limit, traced, batch // size, probable)
            if found.peak <= limit and pick is not probable:
                found = self._under(limit, traced, batch // size, pick)
            if found.peak <= limit:
                return found
            smallest = found if smallest is None or found.peak < smallest.peak else smallest
        least, asked = smallest.peak + host, self.options.memory_limit
        raise MemoryLimitError(
            f"A training step of this model takes at least {math.ceil(least / 1e5) / 10:.1f} MB (with micro-batches of "
            f"{smallest.graph.batch} and activations computed again), more than the limit of {asked / 1e6:.1f} MB: "
            "allow that much, or use a narrower model.",
            least,
        )

    def _sizes(self, first: int, batch: int) -> Iterable[int]:
        """Micro-batches to try, from `first` down; below a vector's lanes nothing is gained."""
        yield first
        if self.options.micro_batch is not None:
            return
        for size in range(first - 1, 0, -1):
            if batch % size == 0:
                yield size
                if size <= self.device.lanes("float32"):
                    return

    def _path(self, tiled: StepProgram) -> Iterator[Schedule]:
        flow = Dataflow(Program.of(tiled.module[STEP]), tiled.repeats, tiled.flops)
        packed = narrowable(flow, self.device) if self.options.stored == BFLOAT16 else frozenset()
        return cheapest_first(flow, packed)

    def _finished(self, tiled: StepProgram, graph: TrainingGraph, parts: int, schedule: Schedule) -> Fitted:
        lowered = finish(tiled, self.rule, self.device, self.options, schedule, parts, self.watch)
        planned = plan(lowered, self.device, self.watch)
        half = stores_half(self.options.stored, graph.dtype)
        stored = BFLOAT16 if schedule.packed else FLOAT16 if half else graph.dtype
        return Fitted(graph, tiled, schedule, lowered, planned, parts, _bytes(planned, parts), stored)

    def _under(self, limit: float, graph: TrainingGraph, parts: int, pick: Pick) -> Fitted:
        """Within the limit, or the last of the path."""
        tiled = tile(graph, self.specs, self.device, self.options, pick, self.watch)
        path = self._path(tiled)
        found = self._finished(tiled, graph, parts, next(path))
        while found.peak > limit:
            # What surrounds the tensors, and the gaps between them, are taken to stay as they are.
            schedule = _next_within(path, found.schedule.peak - (found.peak - limit))
            if schedule is None:
                break
            found = self._finished(tiled, graph, parts, schedule)
        room = limit - found.peak
        if found.schedule.dropped and room >= 0:
            schedule = trimmed(found.schedule, found.schedule.peak + room)
            lighter = self._finished(tiled, graph, parts, schedule) if schedule is not found.schedule else found
            found = lighter if lighter.peak <= limit else found
        return found


def _next_within(path: Iterator[Schedule], peak: float) -> Schedule | None:
    """The first schedule ahead whose peak is at most that, or else the last one; None at the end of the path."""
    schedule = None
    for schedule in path:
        if schedule.peak <= peak:
            break
    return schedule


def _bytes(planned: StepProgram, parts: int) -> dict[str, int]:
    """Bytes of a training session by kind."""
    step, arena = planned.signature[STEP], planned.arenas[STEP]

    def taken(*roles: Role) -> int:
        return sum(arg.bytes for arg in step.of(*roles))

    slots, hypers = (planned.signature.get(UPDATE, step).of(role) for role in (Role.SLOT, Role.HYPER))
    given = dict(zip(step.results, arena.returned, strict=True))
    handed_out = sum(size for result, size in given.items() if result.role in RESULTS)
    return {
        "weights": taken(Role.PARAMETER, Role.FROZEN, Role.BUFFER),
        # Sums of gradients where there are parts, else those that a step hands out.
        "gradients": taken(Role.ACCUMULATOR) if parts > 1 else sum(arena.returned) - handed_out,
        "optimizer": sum(arg.bytes for arg in slots),
        "indices": taken(Role.INDEX),
        "activations": arena.activations,
        "workspace": arena.workspace,
        "data": (taken(Role.INPUT, Role.TARGET) + handed_out) * parts + sum(arg.bytes for arg in hypers) + SCALARS,
    }
