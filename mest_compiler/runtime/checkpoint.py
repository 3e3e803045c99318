"""Checkpoints of a compiled training run: one safetensors file with a checksum, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from mest_compiler.errors import CheckpointError, StructureError
from mest_compiler.sparsity.structure import Structure

_TENSOR, _MOMENTUM, _STRUCTURE, _DRAWS = "tensor", "momentum", "structure", "draws"
# What must agree between the artifact that wrote a checkpoint and the one that reads it.
_IDENTITY = ("input_shape", "classes", "dtype", "parameters", "buffers", "optimizer", "batch")


@dataclass(frozen=True)
class Content:
    """Tensors and momenta by torch name (values where sparse), structures, a caller's JSON values, and what draws the
    masks of the dropouts: the run's seed and how many steps it has done.
    """

    tensors: Mapping[str, np.ndarray]
    momenta: Mapping[str, np.ndarray]
    structures: Mapping[str, Structure]
    extra: dict[str, Any]
    seed: int = 0
    steps: int = 0


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """sha256 of what makes two artifacts interchangeable for a checkpoint."""
    sparse = {p: [layer["scheme"], layer["capacity"]] for p, layer in manifest["layers"].items() if "capacity" in layer}
    identity = {key: manifest[key] for key in _IDENTITY} | {"sparse": sparse}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _digest(arrays: Mapping[str, np.ndarray], extra: str) -> str:
    state = hashlib.sha256(extra.encode())
    for name in sorted(arrays):
        state.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        state.update(np.asarray(arrays[name], order="C").tobytes())
    return state.hexdigest()


def write(path: Path, content: Content, identity: str) -> None:
    """Writes a checkpoint under a temporary name, then renames it.

    Raises:
        CheckpointError: it cannot be written.
    """
    arrays = {f"{_TENSOR}/{n}": np.asarray(a, order="C") for n, a in content.tensors.items()}
    arrays |= {f"{_MOMENTUM}/{n}": np.asarray(a, order="C") for n, a in content.momenta.items()}
    for name, structure in content.structures.items():
        arrays |= {f"{_STRUCTURE}/{name}/{k}": np.asarray(a, order="C") for k, a in structure.to_arrays().items()}
    arrays |= {f"{_DRAWS}/{k}": np.asarray(v, np.uint64) for k, v in (("seed", content.seed), ("steps", content.steps))}
    try:
        extra = json.dumps(content.extra)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"What goes with checkpoint {path} is no JSON ({error}).") from error
    metadata = {"artifact": identity, "extra": extra, "sha256": _digest(arrays, extra)}
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as out:
            out.write(safetensors.numpy.save(arrays, metadata))
        os.chmod(temporary, 0o644)  # mkstemp's own mode shuts everybody else out
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"Checkpoint {path} could not be written: {error.strerror or error}.") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def read(path: Path, manifest: Mapping[str, Any]) -> Content:
    """Reads and verifies a checkpoint of an artifact.

    Raises:
        CheckpointError: missing, damaged, or of another artifact.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no checkpoint at {path}.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"Checkpoint {path} is damaged ({error}): use an earlier one.") from error
    extra = metadata.get("extra", "")
    if metadata.get("sha256") != _digest(arrays, extra):
        raise CheckpointError(f"Checkpoint {path} is damaged (its sha256 differs): use an earlier one.")
    if metadata.get("artifact") != fingerprint(manifest):
        raise CheckpointError(
            f"Checkpoint {path} is of another model, batch, optimiser or sparsity than this artifact: "
            "resume with its own."
        )
    found: dict[str, dict[str, np.ndarray]] = {_TENSOR: {}, _MOMENTUM: {}, _DRAWS: {}}
    stored: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        kind, name = key.split("/", 1)
        if kind == _STRUCTURE:
            layer, part = name.rsplit("/", 1)
            stored.setdefault(layer, {})[part] = array
        else:
            found[kind][name] = array
    try:
        structures = {name: Structure.from_arrays(parts) for name, parts in stored.items()}
    except StructureError as error:
        raise CheckpointError(f"Checkpoint {path} holds a damaged structure: {error}") from error
    draws = {name: int(array) for name, array in found[_DRAWS].items()}
    return Content(found[_TENSOR], found[_MOMENTUM], structures, json.loads(extra), **draws)
