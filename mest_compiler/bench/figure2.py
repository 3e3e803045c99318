"""Figure 2 of the paper, measured here: how much faster than dense one layer is, by scheme and sparsity.

All schemes of one sparsity meet the dense contestants in the same alternating rounds, so that what slows the machine
for a while slows all of them alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mest_compiler.bench import compiled_layer, torch_layer
from mest_compiler.bench.break_even import BreakEven, break_even
from mest_compiler.bench.child import Contestant
from mest_compiler.bench.compare import DENSE, SPARSE, TORCH, LayerCase, relative_errors
from mest_compiler.bench.csv_rows import check_settings, origin
from mest_compiler.bench.inputs import layer_inputs
from mest_compiler.bench.layer_spec import LayerSpec
from mest_compiler.bench.rounds import Progress, Timing, fastest, interleave
from mest_compiler.errors import ProfileError
from mest_compiler.pace import SLOWED
from mest_compiler.sparsity.schemes import Scheme, check_sparsity, get_scheme

LAYER = "layer:64,64,3,16x16"
"""The paper's: 3x3, 64 channels in and out, 16x16, from ResNet-32."""
SCHEMES = ("unstructured", "block", "pattern", "channel", "filter")
SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
PAPER = {"unstructured": 0.8, "block": 0.7}
"""Break-even points on the paper's phone GPU (section 3.1); of the other schemes its text says none."""

Group = tuple[float, tuple[str, ...]]
"""A sparsity and the schemes that are measured together at it."""


@dataclass(frozen=True)
class Point:
    """One scheme at one sparsity: a row of the CSV file.

    Attributes:
        sparsity: fraction of zeros asked for; zeros: that of the mask, which whole units round.
        ms_sparse, ms_dense, ms_torch: medians of the rounds, forward and both gradients, of this scheme's kernels, our
            dense ones and the fastest of PyTorch's dense variants (torch_variant), in the same run.
        speedup_torch, speedup_dense: how many times faster the scheme is than those two.
        spread: (largest - smallest sample) / median, the largest of the three contestants.
        slowed: how many times longer than in calm a core's beat was in the worst round that counts (see `rounds`).
        kernels: which kernels computed it: forward, gradient of the input, gradient of the weight.
        max_rel_error: largest difference of y, dx and dw from PyTorch's, relative to the tensor's largest value.
    """

    scheme: str
    sparsity: float
    ms_sparse: float
    ms_dense: float
    ms_torch: float
    speedup_torch: float
    speedup_dense: float
    spread: float
    slowed: float
    threads: int
    machine: str
    date: str
    command: str
    zeros: float
    torch_variant: str
    kernels: str
    max_rel_error: float
    layer: str
    batch: int
    seed: int
    rounds: int
    device: str
    torch: str
    tvm: str

    @property
    def calm(self) -> bool:
        """Whether nothing else slowed the cores in the rounds that count."""
        return self.slowed < SLOWED


@dataclass(frozen=True)
class Figure:
    """What all points of a figure have in common; `command` is what was typed."""

    layer: LayerSpec
    batch: int
    seed: int
    threads: int
    rounds: int
    device: str
    command: str

    def settings(self) -> dict[str, str | int]:
        """What was asked for, by the points' field names."""
        names = ("batch", "seed", "threads", "rounds", "device")
        return {"layer": str(self.layer), **{name: getattr(self, name) for name in names}}

    def origin(self) -> dict[str, Any]:
        """The points' fields that say where they come from; see `csv_rows.origin`."""
        return origin(threads=self.threads, device=self.device, command=self.command)

    def check(self, path: Path, points: Sequence[Point]) -> None:
        """Raise BenchError unless the points of a file may stand in this figure: measured alike, on this machine."""
        here = {name: self.origin()[name] for name in ("machine", "torch", "tvm")}
        check_settings(path, points, {**self.settings(), **here})


def plan(
    layer: LayerSpec, schemes: Sequence[str], sparsities: Sequence[float], done: Iterable[Point] = ()
) -> list[Group]:
    """What is to be measured, without the points that are done and the ratios that a scheme cannot have.

    Raises ProfileError for an unknown scheme, one that cannot cut this layer, or a sparsity outside [0, 1).
    """
    for sparsity in sparsities:
        check_sparsity("a figure", sparsity)
    found = {name: get_scheme(name) for name in schemes}
    for scheme in found.values():
        scheme.check_shape(str(layer), layer.weight_shape)
    have = {(point.scheme, point.sparsity) for point in done}
    groups = []
    for sparsity in sorted(set(sparsities)):
        names = dict.fromkeys(scheme.name for scheme in found.values() if _has_ratio(scheme, layer, sparsity))
        left = tuple(name for name in names if (name, sparsity) not in have)
        if left:
            groups.append((sparsity, left))
    return groups


def measure(figure: Figure, groups: Sequence[Group], progress: Progress | None = None) -> Iterator[list[Point]]:
    """The points of one group after the other, measured as they are asked for."""
    sizes = [len(names) + 1 + len(torch_layer.FACTORIES) for _, names in groups]
    total, done = figure.rounds * sum(sizes), 0
    for (sparsity, names), size in zip(groups, sizes, strict=True):

        def turn(of_group: int, _: int, name: str, before: int = done, sparsity: float = sparsity) -> None:
            if progress is not None:
                progress(before + of_group, total, f"{sparsity:.0%} zeros, {name}")

        yield _measured(figure, sparsity, names, turn)
        done += figure.rounds * size


def break_evens(points: Iterable[Point]) -> dict[str, BreakEven]:
    """From which sparsity on each scheme is faster than PyTorch, in the order of the points."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        curves.setdefault(point.scheme, []).append((point.zeros, point.speedup_torch))
    return {scheme: break_even(curve) for scheme, curve in curves.items()}


def calmest(points: Iterable[Point]) -> list[Point]:
    """Of the points of one place the one that was slowed the least, in order; see `in_order`."""
    found: dict[tuple[str, float], Point] = {}
    for point in points:
        place = point.scheme, point.sparsity
        found[place] = min(found.get(place, point), point, key=lambda one: one.slowed)
    return in_order(found.values())


def in_order(points: Iterable[Point]) -> list[Point]:
    """By scheme, those of the paper first, and sparsity."""

    def key(point: Point) -> tuple[int, str, float]:
        known = SCHEMES.index(point.scheme) if point.scheme in SCHEMES else len(SCHEMES)
        return known, point.scheme, point.sparsity

    return sorted(points, key=key)


def _has_ratio(scheme: Scheme, layer: LayerSpec, sparsity: float) -> bool:
    """Whether a mask of this scheme can have the ratio: patterns begin at 5/9, and something has to be kept."""
    try:
        return 0 < scheme.kept_units(layer.weight_shape, sparsity) <= scheme.units(layer.weight_shape)
    except ProfileError:  # shape and sparsity have been checked, so it is about both together
        return False


def _measured(figure: Figure, sparsity: float, names: Sequence[str], progress: Progress) -> list[Point]:
    cases = {name: LayerCase(figure.layer, figure.batch, figure.seed, name, sparsity) for name in names}
    whole = LayerCase(figure.layer, figure.batch, figure.seed, None, 0.0)
    contestants = [replace(_ours(case, figure.threads, SPARSE), name=name) for name, case in cases.items()]
    contestants.append(_ours(whole, figure.threads, DENSE))
    contestants += torch_layer.contestants(figure.layer, threads=figure.threads, **whole.arguments())
    with TemporaryDirectory(prefix="mest-") as folder:
        timings = interleave(contestants, figure.rounds, progress, outputs=Path(folder))
        return [_point(figure, case, timings) for case in cases.values()]


def _ours(case: LayerCase, threads: int, name: str) -> Contestant:
    ours = compiled_layer.contestants(case.layer, threads=threads, **case.arguments())
    return next(contestant for contestant in ours if contestant.name == name)


def _point(figure: Figure, case: LayerCase, timings: dict[str, Timing]) -> Point:
    variant = fastest(timings, TORCH)
    sparse, dense, torch = timings[case.scheme], timings[DENSE], timings[variant]
    kernels = sparse.extra["result"]["kernels"]
    mask = layer_inputs(case.layer, **case.arguments()).mask
    return Point(
        scheme=case.scheme,
        sparsity=case.sparsity,
        ms_sparse=sparse.median,
        ms_dense=dense.median,
        ms_torch=torch.median,
        speedup_torch=torch.median / sparse.median,
        speedup_dense=dense.median / sparse.median,
        spread=max(timing.spread for timing in (sparse, dense, torch)),
        slowed=max(timing.slowed for timing in (sparse, dense, torch)),
        zeros=1 - float(mask.mean()),
        torch_variant=variant,
        kernels=" ".join(kernel["kernel"] for kernel in kernels[str(case.layer)].values()),
        max_rel_error=_error(case, mask, Path(sparse.extra["outputs"])),
        layer=str(case.layer),
        batch=case.batch,
        seed=case.seed,
        rounds=figure.rounds,
        **figure.origin(),
    )


def _error(case: LayerCase, mask: np.ndarray, outputs: Path) -> float:
    """How far the sparse kernels' results are from PyTorch's; of dw, only what the mask keeps counts."""
    layer = torch_layer.nchw_direct(layer=str(case.layer), **case.arguments())
    expected = dict(zip(("y", "dx", "dw"), (tensor.numpy() for tensor in layer.gradients()), strict=True))
    with np.load(outputs) as file:
        found = {name: file[name] for name in expected}
    found["dw"], expected["dw"] = found["dw"][mask], expected["dw"][mask]
    return max(relative_errors(found, expected).values())
