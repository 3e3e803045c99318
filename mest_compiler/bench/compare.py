"""Whole comparisons: which contestants meet, on what, and how far their results are apart."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_type_hints

import numpy as np

from mest_compiler.bench import compiled_layer, compiled_network, torch_layer, torch_network
from mest_compiler.bench.child import Contestant
from mest_compiler.bench.inputs import layer_inputs
from mest_compiler.bench.layer_spec import LayerSpec
from mest_compiler.bench.rounds import Progress, Timing, fastest, interleave
from mest_compiler.bench.torch_network import NetworkCase
from mest_compiler.errors import BenchError
from mest_compiler.passes.options import TVM, StepOptions

TORCH, DENSE, SPARSE, UNORDERED, UNTUNED = "torch", "dense", "sparse", "unordered", "untuned"
REWRITES = {name.replace("_", "-"): name for name, kind in get_type_hints(StepOptions).items() if kind is bool}
"""The compiler's rewrites that can be turned on and off, as fields of `StepOptions` by the name of a contestant: the
same step as the comparison is about, with just that one `turned`."""
OPPONENTS = (TORCH, DENSE, UNORDERED, UNTUNED, TVM, *REWRITES)
COMPILED = (SPARSE, DENSE, UNORDERED, UNTUNED, TVM, *REWRITES)
"""Contestants of ours, the one that a comparison is about first."""


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    timings: by contestant; errors: by contestant of ours and tensor, the largest absolute difference from the fastest
    PyTorch variant divided by that variant's largest absolute value; empty without PyTorch.
    """

    timings: Mapping[str, Timing]
    errors: Mapping[str, Mapping[str, float]]

    @property
    def subject(self) -> str:
        """Name of the contestant that the comparison is about."""
        return next(name for name in COMPILED if name in self.timings)


@dataclass(frozen=True)
class LayerCase:
    """One layer; scheme None for a dense one."""

    layer: LayerSpec
    batch: int
    seed: int
    scheme: str | None
    sparsity: float
    uneven: bool = False

    def arguments(self) -> dict[str, int | float | str | bool]:
        """For `inputs.layer_inputs`; without a scheme no weight is removed, so any scheme's name does."""
        return {
            "batch": self.batch,
            "seed": self.seed,
            "scheme": self.scheme or "unstructured",
            "sparsity": self.sparsity if self.scheme else 0.0,
            "uneven": self.uneven,
        }


def read_opponents(text: str) -> tuple[str, ...]:
    """ "torch,dense" as names, each once; BenchError for one that is none."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in OPPONENTS:
            close = difflib.get_close_matches(name, OPPONENTS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise BenchError(f"There is nothing called {name!r} to compare with{hint}: use {', '.join(OPPONENTS)}.")
    return names


def turned(options: StepOptions, rewrite: str) -> StepOptions:
    """The options with one of `REWRITES` turned the other way round: on where it is off, off where it is on."""
    field = REWRITES[rewrite]
    return replace(options, **{field: not getattr(options, field)})


def compare_layer(
    case: LayerCase,
    opponents: Sequence[str],
    *,
    threads: int,
    rounds: int,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Comparison:
    """Forward and both gradients of a layer: sparse (or dense, without a scheme) against its opponents."""
    if UNORDERED in opponents and case.scheme is None:
        raise BenchError(
            f"A dense layer has no rows to reorder: leave out {UNORDERED!r}, or give a scheme and a ratio."
        )
    arguments = case.arguments()
    ours = {c.name: c for c in compiled_layer.contestants(case.layer, threads=threads, device=device, **arguments)}
    wanted = [SPARSE] if case.scheme else [DENSE]
    wanted += [name for name in (DENSE, UNORDERED) if name in opponents and case.scheme]
    contestants = [ours[name] for name in wanted]
    if TORCH in opponents:
        contestants += torch_layer.contestants(case.layer, threads=threads, **arguments)
    mask = layer_inputs(case.layer, **arguments).mask

    def kept(name: str, array: np.ndarray) -> np.ndarray:
        return array[mask] if name == "dw" else array

    return _meet(contestants, ("y", "dx", "dw"), kept, rounds, progress)


def compare_network(
    artifacts: Mapping[str, Path],
    case: NetworkCase | None,
    *,
    seed: int,
    threads: int,
    rounds: int,
    make: Callable[..., Contestant] = compiled_network.contestant,
    progress: Progress | None = None,
) -> Comparison:
    """A whole iteration: artifacts by name, of `COMPILED`, against PyTorch on `case`, or alone where that is None.

    The case must name the model, seed and masks of the artifacts, so that all start from the same weights. `make` is
    `compiled_network.contestant` or `compiled_network.profiled`.
    """
    contestants = [make(name, path, seed=seed, threads=threads) for name, path in artifacts.items()]
    if case is not None:
        contestants += torch_network.contestants(case, threads=threads)
    return _meet(contestants, ("loss",), lambda name, array: array, rounds, progress)


def _meet(
    contestants: Sequence[Contestant],
    tensors: Sequence[str],
    kept: Callable[[str, np.ndarray], np.ndarray],
    rounds: int,
    progress: Progress | None,
) -> Comparison:
    with TemporaryDirectory(prefix="mest-") as folder:
        timings = interleave(contestants, rounds, progress, outputs=Path(folder))
        if not any(name.startswith(TORCH) for name in timings):
            return Comparison(timings, {})
        reference = _arrays(timings[fastest(timings, TORCH)], tensors, kept)
        errors = {
            name: relative_errors(_arrays(timings[name], tensors, kept), reference)
            for name in COMPILED
            if name in timings
        }
    return Comparison(timings, errors)


def _arrays(
    timing: Timing, tensors: Sequence[str], kept: Callable[[str, np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    with np.load(timing.extra["outputs"]) as file:
        return {name: kept(name, file[name]) for name in tensors}


def relative_errors(found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> dict[str, float]:
    """By tensor of the reference: the largest absolute difference over the reference's largest absolute value."""
    return {
        name: float(np.abs(found[name] - right).max() / max(np.abs(right).max(), np.finfo(np.float32).tiny))
        for name, right in reference.items()
    }
