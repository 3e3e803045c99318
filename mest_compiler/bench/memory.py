"""Training memory by kind, planned and measured, beside PyTorch's; and what a limit on it costs in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mest_compiler.bench import compiled_network, torch_network
from mest_compiler.bench.compare import TORCH
from mest_compiler.bench.csv_rows import origin
from mest_compiler.bench.rounds import Progress, Timing, interleave, run_alone
from mest_compiler.bench.torch_network import NetworkCase

KINDS = ("weights", "gradients", "optimizer", "indices", "data", "activations", "workspace")
"""What training memory is made of, as a manifest plans it."""
REST = "rest"
"""Of PyTorch, what is left of its peak: activations and workspace."""
LIMITS = 5


@dataclass(frozen=True)
class Row:
    """One step: a line of the CSV file. Bytes; what does not exist, or was not measured, is None.

    Attributes:
        panel: "steps", or "limits" for one step under several limits. row: its name, those of PyTorch's variants begin
            with "torch". stored: dtype in which activations wait for backward.
        weights to workspace: as planned, of PyTorch as far as they are known; rest: see `REST`.
        measured_peak: of a compiled step, what its process really took; of PyTorch, its profiler's figure.
        micro_batch: examples that go through the network at a time; recomputed: bytes that are computed again.
        ms: an iteration, median of the rounds; spread: (largest - smallest sample) / median.
    """

    panel: str
    row: str
    scheme: str
    sparsity: float
    stored: str
    memory_limit: float | None
    weights: float | None
    gradients: float | None
    optimizer: float | None
    indices: float | None
    data: float | None
    activations: float | None
    workspace: float | None
    rest: float | None
    planned_peak: float | None
    measured_peak: float | None
    micro_batch: int
    recomputed: float
    ms: float
    spread: float
    model: str
    width: float
    batch: int
    seed: int
    rounds: int
    threads: int
    device: str
    machine: str
    torch: str
    tvm: str
    date: str
    command: str

    @property
    def peak(self) -> float:
        """As measured, or as planned where this machine cannot measure."""
        return self.planned_peak if self.measured_peak is None else self.measured_peak


@dataclass(frozen=True)
class Step:
    """A compiled step that takes part: where its artifact lies, its manifest, and what was asked of it."""

    path: Path
    manifest: Mapping[str, Any]
    scheme: str = ""
    sparsity: float = 0.0
    limit: int | None = None


def limits_between(largest: int, smallest: int) -> tuple[int, ...]:
    """`LIMITS` sizes at equal distances, the largest first; fewer where there are not so many between the two."""
    distance = (largest - smallest) / (LIMITS - 1)
    return tuple(dict.fromkeys(round(largest - number * distance) for number in range(LIMITS)))


def compiled_bytes(artifact: Path, *, seed: int, threads: int) -> dict[str, Any]:
    """What the step of an artifact says after a few iterations in a process of its own; see
    `compiled_network.CompiledStep.result`."""
    return run_alone(compiled_network.contestant("step", artifact, seed=seed, threads=threads))


def torch_bytes(case: NetworkCase, *, threads: int) -> dict[str, int]:
    """Bytes of dense PyTorch's iteration, see `torch_memory.peak_of`, in the memory format that takes the least; one
    process after the other."""
    found = [run_alone(contestant)["bytes"] for contestant in torch_network.contestants(case, threads=threads)]
    return min(found, key=lambda one: one["peak"])


def measure(
    panel: str,
    steps: Mapping[str, Step],
    case: NetworkCase,
    *,
    with_torch: bool,
    threads: int,
    rounds: int,
    device: str,
    command: str,
    progress: Progress | None = None,
) -> list[Row]:
    """The rows of one panel, their times from alternating rounds; PyTorch's variants first, where they take part.

    All their processes are alive at the same time, each with its activations.
    """
    contestants = torch_network.contestants(case, threads=threads) if with_torch else []
    contestants += [
        compiled_network.contestant(name, step.path, seed=case.seed, threads=threads) for name, step in steps.items()
    ]
    timings = interleave(contestants, rounds, progress)
    shared = {
        "panel": panel,
        "model": case.model,
        "width": case.width,
        "batch": case.batch,
        "seed": case.seed,
        "rounds": rounds,
        **origin(threads=threads, device=device, command=command),
    }
    return [
        Row(row=name, **(_ours(steps[name]) if name in steps else _torch(case)), **_measured(timing), **shared)
        for name, timing in timings.items()
    ]


def panel_of(rows: Sequence[Row], panel: str) -> list[Row]:
    """The rows of one panel."""
    return [row for row in rows if row.panel == panel]


def least_torch(rows: Sequence[Row]) -> Row:
    """PyTorch's variant that takes the least memory."""
    return min((row for row in rows if row.row.startswith(TORCH)), key=lambda row: row.peak)


def _ours(step: Step) -> dict[str, Any]:
    memory = step.manifest["memory"]
    return {
        "scheme": step.scheme,
        "sparsity": step.sparsity,
        "stored": memory["stored"],
        "memory_limit": step.limit,
        "micro_batch": memory["micro_batch"],
        "recomputed": sum(memory["recomputed"].values()),
    }


def _torch(case: NetworkCase) -> dict[str, Any]:
    return {
        "scheme": "",
        "sparsity": 0.0,
        "stored": "float32",
        "memory_limit": None,
        "micro_batch": case.batch,
        "recomputed": 0,
    }


def _measured(timing: Timing) -> dict[str, Any]:
    """Bytes that the contestant itself tells, and its time."""
    said = timing.extra["result"]["bytes"]
    return {
        **{kind: said.get(kind) for kind in (*KINDS, REST, "planned_peak")},
        "measured_peak": said.get("peak", said.get("measured_peak")),
        "ms": timing.median,
        "spread": timing.spread,
    }
