"""Checkpoints whose checksum is right and whose contents do not fit the network that they say they are of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mest_compiler.runtime import checkpoint


def rewritten(engine, path: Path) -> checkpoint.Content:
    """What an engine, either one, saves now."""
    engine.save(path, {"epoch": 1})
    return checkpoint.read(path, engine._identity())


def wrong_contents(
    content: checkpoint.Content, sparse: str, dense: str, buffer: str
) -> Iterator[tuple[str, checkpoint.Content]]:
    """(what is wrong, contents), given names of a sparse parameter, a dense one and running statistics."""

    def arrays_of(part: str) -> dict[str, np.ndarray]:
        return dict(content.slots[part] if part in content.slots else getattr(content, part))

    def changed(part: str, arrays: dict[str, np.ndarray]) -> checkpoint.Content:
        if part in content.slots:
            return replace(content, slots={**content.slots, part: arrays})
        return replace(content, **{part: arrays})

    def without(part: str, name: str) -> checkpoint.Content:
        return changed(part, {n: a for n, a in arrays_of(part).items() if n != name})

    def put(part: str, name: str, array: np.ndarray) -> checkpoint.Content:
        return changed(part, arrays_of(part) | {name: array})

    for part, name in (
        ("state", sparse), ("state", dense), ("state", buffer), ("momentum", sparse), ("momentum", dense),
        ("units", sparse),
    ):  # fmt: skip
        array = arrays_of(part)[name]
        yield f"no {part} of {name}", without(part, name)
        yield f"{part} of {name} too short", put(part, name, array[:-1])
        yield f"{part} of {name} in another shape", put(part, name, array[None])
        yield f"{part} of {name} of another dtype", put(part, name, array.astype(np.int16))
        yield f"{part} of nobody", put(part, "nobody", array)
    yield "no momentum", replace(content, slots={})
    yield "a slot of another optimiser", replace(content, slots={**content.slots, "v": content.slots["momentum"]})
    yield "momentum of running statistics", put("momentum", buffer, content.state[buffer])
    units = content.units[sparse]
    for what, wrong in {
        "negative": np.concatenate([[-1], units[1:]]), "falling": units[::-1].copy(),
        "twice": np.concatenate([units[:1], units[:-1]]), "out of range": np.concatenate([units[:-1], [2**30]]),
        "int64": units.astype(np.int64), "float": units.astype(np.float32), "one too many": np.arange(len(units) + 1),
    }.items():  # fmt: skip
        yield f"units {what}", put("units", sparse, wrong if what in ("int64", "float") else wrong.astype(np.int32))
    yield "negative seed", replace(content, seed=-1)
    yield "half a step", replace(content, steps=0.5)
    yield "a list beside", replace(content, extra=[1])
