"""Which kernel of a layer is the fastest here: measured on random data, with a random structure of its capacity.

In the running are the kernels that `schedules` offers, with the knobs that a tuning log has of them.

Measurements are kept in a file of the user's cache folder, under a key of everything they depend on, so that the same
layer on the same machine is measured once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import chain
from math import isfinite

import numpy as np

from mest_compiler import caching
from mest_compiler.devices import Device
from mest_compiler.files import write_text
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.pace import Pacer
from mest_compiler.schedules.choice import Choice
from mest_compiler.sparsity.layer_spec import SparseLayerSpec
from mest_compiler.sparsity.structure import Structure, build

from .kernel_key import kernel_key
from .layer_run import Operands, functions, interleaved_ms, kernel_call
from .records import Records

ROUNDS = 9
PATIENCE_S = 10.0
"""Seconds in all that a process waits for cores that something else slows, and measures again."""
TIE = 0.95
"""Times its time, a dense kernel is compared: sparse ones lose more where something disturbs them, so they must win."""
SEED = 0
Say = Callable[[str], None]

LOG = logging.getLogger(__name__)


class Fastest:
    """Picks by measuring; `times` holds what was measured, by (parameter-free) layer and direction, in ms."""

    def __init__(self, device: Device, say: Say | None = None, records: Records | None = None) -> None:
        self.device, self.say = device, say or (lambda text: None)
        self.records = records or Records(device)
        self.times: dict[str, dict[str, float]] = {}
        self._keys: dict[tuple, str] = {}  # what a key is of -> it: a network has many layers alike

    def __call__(self, direction: str, layer: LayerProblem, found: Sequence[Choice]) -> Choice:
        """The fastest of `contestants` (a dense one within `TIE` of a sparse one); the only one, unmeasured."""
        running = self.contestants(direction, layer, found)
        if len(running) == 1:
            return running[0]
        times = self.measure(direction, layer, running)
        best = min(running, key=lambda choice: times[label(choice)] * (TIE if choice.beside is not None else 1.0))
        return replace(best, source=best.source if best.source == "tuned" else "measured", times=times)

    def contestants(self, direction: str, layer: LayerProblem, found: Sequence[Choice]) -> list[Choice]:
        """The kernels, each with the knobs on record where those were compared with its default ones; where they were
        not, both are in the running."""
        running: dict[str, Choice] = {}
        for choice in found:
            tuned = self.records.tuned(direction, choice, layer)
            if tuned is None or not self.records.compared(direction, choice, layer):
                running[label(choice)] = choice
            if tuned is not None:
                running[label(tuned)] = tuned
        return list(running.values())

    def measure(self, direction: str, layer: LayerProblem, found: Sequence[Choice]) -> dict[str, float]:
        """ms of each kernel by its `label`, the least of the rounds: what disturbs only adds."""
        key = self._key(direction, layer, found)
        if key not in self.times:
            self.times[key] = _load(key, found) or self._measure(key, direction, layer, found)
        return self.times[key]

    def _measure(self, key: str, direction: str, layer: LayerProblem, found: Sequence[Choice]) -> dict[str, float]:
        g, sparse = layer.geometry, layer.sparse
        shape = g.weight_shape
        self.say(f"{direction} of {'dense' if sparse is None else sparse.scheme} {shape}")
        structure, rng = None if sparse is None else random_structure(sparse), np.random.default_rng(SEED)
        x = rng.standard_normal((g.tiles, g.channels * g.x.size, g.lanes), np.float32).astype(g.dtype)
        dy = rng.standard_normal((g.tiles, g.filters * g.dy.size, g.lanes), np.float32).astype(g.dtype)
        values = rng.standard_normal(layer.held_shape, np.float32).astype(g.dtype)
        operands = Operands.of(self.device, g, x, dy, values)
        calls = [kernel_call(direction, c, self.device, layer, operands, structure) for c in found]
        measured = _measured(lambda: interleaved_ms(calls, ROUNDS, operands.place.sync))
        times = {label(choice): round(min(some), 4) for choice, some in zip(found, measured, strict=True)}
        LOG.debug("%s of %s: %s", direction, shape, ", ".join(f"{name} {ms:.4f} ms" for name, ms in times.items()))
        _save(key, times)
        return times

    def _key(self, direction: str, layer: LayerProblem, found: Sequence[Choice]) -> str:
        alike = (direction, layer, tuple((label(choice), choice.make) for choice in found))
        if alike not in self._keys:
            made = {label(choice): functions(choice) for choice in found}
            kernels = {name: kernel_key(some, self.device) for name, some in made.items()}
            self._keys[alike] = caching.key(direction=direction, layer=asdict(layer), kernels=kernels)
        return self._keys[alike]


_pacer = Pacer(PATIENCE_S)


def _measured(times: Callable[[], list[list[float]]]) -> list[list[float]]:
    """The times of each kernel, those of slowed moments among them."""
    return [list(chain.from_iterable(some)) for some in zip(*_pacer.takes(times), strict=True)]


def label(choice: Choice) -> str:
    """A choice in one word for tables and keys."""
    return f"{choice.kernel}/{choice.family}/" + ",".join(f"{k}={v}" for k, v in asdict(choice.knobs).items())


def random_structure(spec: SparseLayerSpec) -> Structure:
    """A structure that fills a layer's capacity as evenly as it goes, seeded."""
    each, extra = divmod(spec.capacity, spec.rows)
    quotas = np.full(spec.rows, each) + (np.arange(spec.rows) < extra)
    mask = spec.kind.mask_of_rows(spec.shape, quotas, np.random.default_rng(SEED))
    return build(mask, spec.scheme, spec.capacity)


def _load(key: str, found: Sequence[Choice]) -> dict[str, float] | None:
    """What a file says of these kernels; None: it is not there, or damaged, so they are measured anew."""
    folder = caching.folder("fastest")
    try:
        times = {} if folder is None else json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(times, dict) or set(times) != {label(choice) for choice in found}:
        return None
    return times if all(isinstance(ms, float) and isfinite(ms) for ms in times.values()) else None


def _save(key: str, times: dict[str, float]) -> None:
    folder = caching.folder("fastest")
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{key}.json", json.dumps(times))
    except OSError:
        return  # a cache that cannot be written is only slower
