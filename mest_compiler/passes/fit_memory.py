"""From a traced step to one whose memory is planned, under a limit where there is one.

A limit is met by computing activations again, and where that is not enough by micro-batches: the largest that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.errors import MemoryLimitError
from mest_compiler.frontend import TrainingGraph
from mest_compiler.schedules.cpu.sgd import Sgd

from .options import StepOptions
from .pipeline import Lowered, Planned, Tiled, finish, plan, probable, tile
from .plan_memory import tensor_bytes
from .program import relax_functions
from .sparsify_convolutions import SparseLayer
from .tiling.plan import Pick

TRIES = 6
"""An arena takes a little more than what lives in it at the same time: the limit on that is lowered until it fits."""
SCALARS = 20
"""Bytes at most of the learning rate, the seed of a step, and the two flags of micro-batches."""


@dataclass(frozen=True)
class Fitted:
    """A step whose memory is planned. parts: micro-batches of a whole batch. memory: bytes by kind ("weights",
    "gradients", "momentum", "indices", "activations", "workspace", "data"), as a manifest has them."""

    graph: TrainingGraph
    lowered: Lowered
    planned: Planned
    parts: int
    memory: dict[str, int]

    @property
    def peak(self) -> int:
        """Bytes of all training memory."""
        return sum(self.memory.values())

    def describe(self) -> dict[str, Any]:
        """As a manifest has it: what is planned, and what is done for it."""
        recomputed: dict[str, int] = {}
        for kernel, size in self.lowered.schedule.dropped_kernels():
            recomputed[kernel] = recomputed.get(kernel, 0) + size
        return {
            "planned": self.memory,
            "planned_peak": self.peak,
            "micro_batch": self.graph.batch,
            "micro_batches": self.parts,
            "recomputed": recomputed,
            "stored": "bfloat16" if self.lowered.schedule.packed else self.graph.dtype,
        }


@dataclass(frozen=True)
class Fitter:
    """What all attempts have in common."""

    layers: Mapping[str, SparseLayer]
    rule: Sgd
    device: CpuProfile
    options: StepOptions

    def fit(
        self, graph: TrainingGraph, batch: int, trace: Callable[[int], TrainingGraph], pick: Pick = probable
    ) -> Fitted:
        """The step of a graph that was traced with the batch or with the given micro-batch, with memory planned.

        trace: gives the graph for fewer examples at a time. pick: chooses the kernels of the one that fits.

        Raises:
            MemoryLimitError: nothing fits.
        """
        limit = self.options.memory_limit
        if limit is None:
            return self._finished(self._tiled(graph, pick), graph, batch // graph.batch, None)
        smallest = None
        for size in self._sizes(graph.batch, batch):
            traced = graph if size == graph.batch else trace(size)
            found = self._under(limit, traced, batch // size, probable)
            if found.peak <= limit and pick is not probable:
                found = self._under(limit, traced, batch // size, pick)
            if found.peak <= limit:
                return found
            smallest = found if smallest is None or found.peak < smallest.peak else smallest
        raise MemoryLimitError(
            f"A training step of this model takes at least {smallest.peak / 1e6:.1f} MB (with micro-batches of "
            f"{smallest.graph.batch} and activations computed again), more than the limit of {limit / 1e6:.1f} MB: "
            "allow that much, or use a narrower model.",
            smallest.peak,
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

    def _tiled(self, graph: TrainingGraph, pick: Pick) -> Tiled:
        return tile(graph, self.layers, self.device, self.options, pick)

    def _finished(self, tiled: Tiled, graph: TrainingGraph, parts: int, alive: int | None) -> Fitted:
        lowered = finish(tiled, graph, self.rule, self.device, self.options, parts, alive)
        planned = plan(lowered.module, self.device)
        return Fitted(graph, lowered, planned, parts, _bytes(graph, lowered, planned, parts))

    def _under(self, limit: int, graph: TrainingGraph, parts: int, pick: Pick) -> Fitted:
        """Within the limit, or the smallest found."""
        tiled = self._tiled(graph, pick)
        found = self._finished(tiled, graph, parts, None)
        if found.peak <= limit:
            return found
        alive = found.lowered.schedule.peak
        smallest = self._finished(tiled, graph, parts, 0)
        if smallest.peak > limit:
            return smallest
        for _ in range(TRIES):
            alive -= found.peak - limit
            found = self._finished(tiled, graph, parts, max(alive, 0))
            if found.peak <= limit:
                return found
        return smallest


def _bytes(graph: TrainingGraph, lowered: Lowered, planned: Planned, parts: int) -> dict[str, int]:
    """Bytes of a training session by kind."""
    step = dict(relax_functions(lowered.module))["step"]
    sizes = [tensor_bytes(param.ty) for param in step.params]
    weights, held = len(graph.parameters), len(graph.parameters) + len(graph.buffers)
    inputs = held + 2 + graph.seeded
    arrays = inputs + len(lowered.tiles.index_names["step"])
    parameters = sum(sizes[:weights])
    arena = planned.arenas["step"]
    results = sum(arena.returned[:2])  # loss and logits
    return {
        "weights": sum(sizes[:held]),
        "gradients": parameters if parts > 1 else sum(arena.returned[2:]),
        "momentum": parameters,
        "indices": sum(sizes[inputs:arrays]),
        "activations": arena.activations,
        "workspace": arena.workspace,
        "data": (sum(sizes[held : held + 2]) + results) * parts + SCALARS,
    }
