"""Table K.1 of the paper, measured here: a training iteration of ResNet-50 by sparsity scheme and ratio rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mest_compiler.bench import compiled_network, torch_network
from mest_compiler.bench.compare import TORCH
from mest_compiler.bench.csv_rows import origin
from mest_compiler.bench.rounds import Progress, Timing, fastest, interleave
from mest_compiler.bench.torch_network import NetworkCase
from mest_compiler.errors import BenchError
from mest_compiler.sparsity.profile import Profile

if TYPE_CHECKING:
    from mest_compiler.runtime.artifact import Artifact

MODEL, CLASSES, INPUT_SHAPE = "resnet50_cifar", 100, (3, 32, 32)
DENSE = "dense"
_HYBRID = {"scheme": "block", "sparsity": 0.9, "first": "dense", "kinds": {"3x3": "pattern", "1x1": "block"}}
ROWS: dict[str, dict[str, Any] | None] = {
    DENSE: None,
    "pattern": {"scheme": "pattern", "sparsity": 0.9, "first": "dense", "kinds": {"3x3": "pattern", "1x1": "dense"}},
    "block": {"scheme": "block", "sparsity": 0.9, "first": "dense"},
    "hybrid-uniform": {**_HYBRID, "ratio": "uniform"},
    "hybrid-1.12:1": {**_HYBRID, "ratio": "1.12:1"},
    "hybrid-proportional": {**_HYBRID, "ratio": "proportional"},
}
"""The table's rows as profiles, None for a dense model. The paper rounds 1.12:1 to 95 % of the 3x3 and 85 % of the 1x1
layers, whose ratio is 1.118; the rule keeps 90 % over all."""
PAPER_SECONDS = {
    DENSE: 11.92,
    "pattern": 8.18,
    "block": 6.25,
    "hybrid-uniform": 5.39,
    "hybrid-1.12:1": 5.55,
    "hybrid-proportional": 5.62,
}
"""Seconds an iteration on the paper's phone GPU, MEST+EM."""


@dataclass(frozen=True)
class Row:
    """One row: a line of the CSV file. What was not measured, or is not in the paper, is None.

    Attributes:
        zeros: fraction of the weights of all convolutions but the first that the masks remove.
        seconds: an iteration here, median of the rounds; spread: (largest - smallest sample) / median.
        speedup_dense, speedup_torch: how many times faster than our dense step and PyTorch's fastest dense variant.
        paper_seconds, paper_speedup: the paper's, and how many times faster than its dense step.
        peak_rss_mb: MiB of the contestant's process.
    """

    row: str
    zeros: float
    seconds: float
    spread: float
    speedup_dense: float | None
    speedup_torch: float
    paper_seconds: float | None
    paper_speedup: float | None
    peak_rss_mb: float
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


def check_rows(names: tuple[str, ...]) -> None:
    """Raise BenchError for a name that is no row of the table."""
    for name in names:
        if name not in ROWS:
            raise BenchError(f"Table K.1 has no row {name!r}: use {', '.join(ROWS)}.")


def profile_of_row(name: str) -> Profile | None:
    """The row's profile, None for the dense model."""
    return None if ROWS[name] is None else Profile.from_mapping(ROWS[name])


def zeros_of(artifact: Artifact) -> float:
    """Fraction of the weights of all convolutions but the first that the artifact's masks remove."""
    shapes = {name: artifact.manifest["parameters"][name] for name in artifact.manifest["layers"]}
    _, *rest = (name for name, shape in shapes.items() if len(shape) == 4)  # a linear layer's has 2
    removed = sum(int((~artifact.structures[name].to_mask()).sum()) for name in rest if name in artifact.structures)
    return removed / sum(prod(shapes[name]) for name in rest)


def measure(
    paths: Mapping[str, Path], case: NetworkCase, *, threads: int, rounds: int, progress: Progress | None = None
) -> dict[str, Timing]:
    """Timings of the artifacts by row, and of PyTorch's dense variants, in alternating rounds.

    All their processes are alive at the same time, each with its activations.
    """
    contestants = [
        compiled_network.contestant(name, path, seed=case.seed, threads=threads) for name, path in paths.items()
    ]
    return interleave([*contestants, *torch_network.contestants(case, threads=threads)], rounds, progress)


def table(
    timings: Mapping[str, Timing],
    zeros: Mapping[str, float],
    case: NetworkCase,
    *,
    threads: int,
    device: str,
    command: str,
) -> list[Row]:
    """The rows of what was measured, in the order of the timings, PyTorch's variants last; zeros by row."""
    dense = timings[DENSE].median if DENSE in timings else None
    torch = timings[fastest(timings, TORCH)].median
    rows = []
    for name, timing in timings.items():
        paper = PAPER_SECONDS.get(name)
        rows.append(
            Row(
                row=name,
                zeros=zeros.get(name, 0.0),
                seconds=timing.median / 1e3,
                spread=timing.spread,
                speedup_dense=None if dense is None else dense / timing.median,
                speedup_torch=torch / timing.median,
                paper_seconds=paper,
                paper_speedup=None if paper is None else PAPER_SECONDS[DENSE] / paper,
                peak_rss_mb=timing.extra["peak_rss_mb"],
                model=case.model,
                width=case.width,
                batch=case.batch,
                seed=case.seed,
                rounds=len(timing.samples),
                **origin(threads=threads, device=device, command=command),
            )
        )
    return rows
