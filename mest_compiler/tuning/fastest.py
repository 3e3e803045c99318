"""Which kernel of a sparse layer is the fastest here: measured on random data with a random structure of its capacity.

Measurements are kept in a file of the user's cache folder, under a key of everything they depend on, so that the same
layer on the same machine is measured once.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path

import numpy as np
import tvm

from mest_compiler import schedules
from mest_compiler.devices import Device
from mest_compiler.kernels.indices import SparseConv
from mest_compiler.schedules.choice import Choice
from mest_compiler.sparsity.structure import Structure, build

from .layer_run import Operands, interleaved_ms, kernel_call

ROUNDS = 9
SEED = 0
FOLDER = "MEST_CACHE"
"""Environment variable that names another cache folder; empty: nothing is kept."""

Say = Callable[[str], None]


class Fastest:
    """Picks by measuring; `times` holds what was measured, by (parameter-free) layer and direction, in ms."""

    def __init__(self, device: Device, say: Say | None = None) -> None:
        self.device, self.say = device, say or (lambda text: None)
        self.times: dict[str, dict[str, float]] = {}

    def __call__(self, direction: str, layer: SparseConv, found: Sequence[Choice]) -> Choice:
        """The fastest of `found`; the only one, unmeasured."""
        if len(found) == 1:
            return found[0]
        times = self.measure(direction, layer, found)
        return replace(min(found, key=lambda choice: times[label(choice)]), source="measured", times=times)

    def measure(self, direction: str, layer: SparseConv, found: Sequence[Choice]) -> dict[str, float]:
        """ms of each kernel by its `label`, the least of the rounds: what disturbs only adds."""
        key = self._key(direction, layer, found)
        if key not in self.times:
            self.times[key] = _load(key, found) or self._measure(key, direction, layer, found)
        return self.times[key]

    def _measure(self, key: str, direction: str, layer: SparseConv, found: Sequence[Choice]) -> dict[str, float]:
        self.say(f"{direction} of {layer.scheme} {layer.shape}")
        structure = random_structure(layer)
        g, rng = layer.geometry, np.random.default_rng(SEED)
        x = rng.standard_normal((g.tiles, g.channels * g.x.size, g.lanes), np.float32).astype(g.dtype)
        dy = rng.standard_normal((g.tiles, g.filters * g.dy.size, g.lanes), np.float32).astype(g.dtype)
        values = rng.standard_normal((layer.capacity, layer.unit_size), np.float32).astype(g.dtype)
        operands = Operands.of(self.device, g, x, dy, values)
        calls = [kernel_call(direction, c, self.device, g, operands, layer, structure) for c in found]
        measured = interleaved_ms(calls, ROUNDS, operands.place.sync)
        times = {label(choice): round(min(some), 4) for choice, some in zip(found, measured, strict=True)}
        _save(key, times)
        return times

    def _key(self, direction: str, layer: SparseConv, found: Sequence[Choice]) -> str:
        facts = {
            "tvm": tvm.__version__, "schedules": _sources(), "device": asdict(self.device), "direction": direction,
            "layer": asdict(layer), "found": [label(choice) for choice in found],
        }  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def label(choice: Choice) -> str:
    """A choice in one word for tables and keys."""
    return f"{choice.kernel}/{choice.indexing}/" + ",".join(f"{k}={v}" for k, v in asdict(choice.knobs).items())


def random_structure(layer: SparseConv) -> Structure:
    """A structure that fills a layer's capacity as evenly as it goes, seeded."""
    each, extra = divmod(layer.capacity, layer.rows)
    quotas = np.full(layer.rows, each) + (np.arange(layer.rows) < extra)
    mask = layer.kind.mask_of_rows(layer.shape, quotas, np.random.default_rng(SEED))
    return build(mask, layer.scheme, layer.capacity)


def _sources() -> str:
    """A digest of the kernels' generators: other code is another measurement."""
    digest = hashlib.sha256()
    for folder in schedules.__path__:
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _folder() -> Path | None:
    named = os.environ.get(FOLDER)
    if named is not None:
        return Path(named) if named else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mest_compiler", "fastest")


def _load(key: str, found: Sequence[Choice]) -> dict[str, float] | None:
    """What a file says of these kernels; None: it is not there, or damaged, so they are measured anew."""
    folder = _folder()
    try:
        times = {} if folder is None else json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(times, dict) or set(times) != {label(choice) for choice in found}:
        return None
    return times if all(isinstance(ms, float) and isfinite(ms) for ms in times.values()) else None


def _save(key: str, times: dict[str, float]) -> None:
    folder = _folder()
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            whole = Path(place, "times.json")
            whole.write_text(json.dumps(times), encoding="utf-8")
            os.replace(whole, folder / f"{key}.json")
    except OSError:
        return  # a cache that cannot be written is only slower
