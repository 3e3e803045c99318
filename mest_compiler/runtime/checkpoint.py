"""Checkpoints of a training run, the same for every backend: one safetensors file with a checksum, written whole or
not at all.

What is sparse is stored compactly, [units, unit_size] in ascending order of unit ids, so the file depends neither on
how a device orders its structures nor on their capacity. Tensors are named

    state/NAME      a parameter, or running statistics; of a sparse parameter its compact values
    momentum/NAME   of a parameter, likewise
    units/NAME      int32 [units], ascending ids of the units that a sparse parameter keeps
    loop/NAME       arrays of the training loop
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from mest_compiler.errors import CheckpointError

_STATE, _MOMENTUM, _UNITS, _LOOP = "state", "momentum", "units", "loop"
_PARTS = (_STATE, _MOMENTUM, _UNITS, _LOOP)
FORM = "mest-checkpoint-2"


@dataclass(frozen=True)
class Content:
    """All of a checkpoint.

    state, momentum: by torch name, compact where sparse; units: of the sparse parameters; extra: JSON values and
    arrays: arrays, both the caller's; seed and steps: what draws the masks of the dropouts.
    """

    state: Mapping[str, np.ndarray]
    momentum: Mapping[str, np.ndarray]
    units: Mapping[str, np.ndarray]
    extra: dict[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0
    steps: int = 0

    def tensors(self) -> dict[str, np.ndarray]:
        """All arrays by their names in the file."""
        parts = zip(_PARTS, (self.state, self.momentum, self.units, self.arrays), strict=True)
        return {f"{part}/{name}": np.asarray(a, order="C") for part, some in parts for name, a in some.items()}


@dataclass(frozen=True)
class Identity:
    """What must agree between who writes a checkpoint and who reads it.

    shapes: of parameters and buffers by torch name, as torch has them; dtype: of the parameters; schemes: of the sparse
    parameters; optimizer: momentum, weight_decay and nesterov.
    """

    shapes: Mapping[str, list[int]]
    dtype: str
    schemes: Mapping[str, str]
    optimizer: Mapping[str, Any]

    def digest(self) -> str:
        """sha256 of all."""
        said = [
            {n: list(shape) for n, shape in self.shapes.items()}, self.dtype, dict(self.schemes), dict(self.optimizer)
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    state = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        state.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        state.update(np.asarray(arrays[name], order="C").tobytes())
    return state.hexdigest()


def write(path: str | Path, content: Content, identity: Identity) -> None:
    """Writes a checkpoint under a temporary name, then renames it.

    Raises:
        CheckpointError: it cannot be written.
    """
    path, arrays = Path(path), content.tensors()
    try:
        text = json.dumps({"extra": content.extra, "seed": content.seed, "steps": content.steps})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"What goes with checkpoint {path} is no JSON ({error}).") from error
    metadata = {"form": FORM, "of": identity.digest(), "text": text, "sha256": _digest(arrays, text)}
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as out:
            out.write(safetensors.numpy.save(arrays, metadata))
            out.flush()
            os.fsync(out.fileno())  # or a power cut could leave the new name with nothing behind it
        os.chmod(temporary, 0o644)  # mkstemp's own mode shuts everybody else out
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"Checkpoint {path} could not be written: {error.strerror or error}.") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def read(path: str | Path, identity: Identity | None) -> Content:
    """Reads and verifies a checkpoint; with None, of whatever network.

    Raises:
        CheckpointError: missing, damaged, or of another network, optimiser or sparsity scheme.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no checkpoint at {path}.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"Checkpoint {path} is damaged ({error}): use an earlier one.") from error
    if metadata.get("form") != FORM:
        raise CheckpointError(f"{path} is no checkpoint of this version: name a file that a run of it saved.")
    text = metadata.get("text", "")
    if metadata.get("sha256") != _digest(arrays, text):
        raise CheckpointError(f"Checkpoint {path} is damaged (its sha256 differs): use an earlier one.")
    if identity is not None and metadata.get("of") != identity.digest():
        raise CheckpointError(
            f"Checkpoint {path} is of another model, optimiser or sparsity scheme than this run: resume with its own."
        )
    found: dict[str, dict[str, np.ndarray]] = {part: {} for part in _PARTS}
    for key, array in arrays.items():
        part, _, name = key.partition("/")
        if part not in found:
            raise CheckpointError(f"Checkpoint {path} has the unknown tensor {key!r}: use another one.")
        found[part][name] = array
    said = json.loads(text)
    return Content(*(found[part] for part in _PARTS[:3]), said["extra"], found[_LOOP], said["seed"], said["steps"])
