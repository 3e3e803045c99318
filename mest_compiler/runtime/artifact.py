"""An artifact: a compiled training step as files. Loading verifies all of them and runs nothing from a pickle."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.numpy
import tvm
from safetensors import SafetensorError

from mest_compiler.errors import ArtifactError, StructureError
from mest_compiler.files import restore, write_bytes, write_folder
from mest_compiler.signature import FunctionSignature, StepSignature
from mest_compiler.sparsity.layer_spec import SparseLayerSpec
from mest_compiler.sparsity.structure import Structure, build

SCHEMA = 7
MANIFEST, LIBRARY, STATE, STRUCTURES = (
    "manifest.json",
    "library.so",
    "state.safetensors",
    "structures.safetensors",
)
_FILES = (LIBRARY, STATE, STRUCTURES)
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)  # RuntimeError: says it is encrypted
_KEYS = (
    "schema",
    "tvm",
    "device",
    "needs",
    "batch",
    "micro_batch",
    "memory",
    "input_shape",
    "classes",
    "inputs",
    "outputs",
    "targets",
    "loss",
    "dtype",
    "seeded",
    "asked",
    "done",
    "parameters",
    "buffers",
    "frozen",
    "signature",
    "layers",
)


@dataclass(frozen=True)
class Artifact:
    """A compiled step: what it is, its machine code, its start state and its structures.

    Attributes:
        manifest: JSON values; see `compile.py` for its keys.
        library: the shared library's bytes.
        tensors: parameters and buffers by torch name; a sparse weight as values [capacity, unit_size].
        structures: of the sparse weights, by name in the manifest's order of parameters.
    """

    manifest: Mapping[str, object]
    library: bytes
    tensors: Mapping[str, np.ndarray]
    structures: Mapping[str, Structure]

    @cached_property
    def signature(self) -> StepSignature:
        """What the program's functions take and give."""
        return {name: FunctionSignature.from_json(found) for name, found in self.manifest["signature"].items()}

    def with_state(self, tensors: Mapping[str, np.ndarray], structures: Mapping[str, Structure]) -> Artifact:
        """The same program with other weights and structures (those of a trainer, say)."""
        return replace(self, tensors=dict(tensors), structures=dict(structures))

    def started_from(self, state: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> Artifact:
        """The same program with another start: no compiling where only weights and masks differ.

        state: parameters and buffers by torch name, sparse weights with or without their zeros; masks: bool
        [F, C, kh, kw] of all sparse layers.

        Raises:
            MaskError, StructureError: a mask of another scheme, or with more units than there is room for.
        """
        tensors, structures, threads = dict(state), {}, self.manifest["device"]["threads"]
        for name, layer in self.manifest["layers"].items():
            if "capacity" in layer:
                spec = SparseLayerSpec.from_json(layer)
                structures[name] = build(masks[name], spec.scheme, spec.capacity, threads)
                tensors[name] = structures[name].compact(state[name].reshape(spec.shape))
        return self.with_state(tensors, structures)

    def _files(self) -> dict[str, bytes]:
        arrays = {
            f"{p}/{key}": np.asarray(a, order="C")
            for p, s in self.structures.items()
            for key, a in s.to_arrays().items()
        }
        return {
            LIBRARY: self.library,
            STATE: safetensors.numpy.save({k: np.asarray(v, order="C") for k, v in self.tensors.items()}),
            STRUCTURES: safetensors.numpy.save(arrays),
        }

    def save(self, path: str | Path) -> Path:
        """Writes a directory, or one zip file where the name ends in .zip; whole or not at all.

        Raises:
            ArtifactError: the place cannot be written, or holds something that is no artifact.
        """
        path = Path(path)
        if path.exists() and not is_artifact(path):
            raise ArtifactError(f"{path} exists and is no artifact: remove it or choose another name.")
        files = self._files()
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        manifest = {key: value for key, value in self.manifest.items() if key != "sha256"}
        hashes[MANIFEST] = _manifest_hash(manifest)
        files[MANIFEST] = json.dumps({**manifest, "sha256": hashes}, indent=1).encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".zip":
                write_bytes(path, _zipped(files))
            else:
                write_folder(path, files)
        except OSError as error:
            raise ArtifactError(f"Artifact {path} could not be written: {error.strerror}.") from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Artifact:
        """Reads and verifies an artifact: whole, of this version, and its tensors those that the manifest names.

        An artifact is code: whoever made it decides what runs in this process once a session loads its library. Its
        hashes show damage and say nothing about its author, so load only artifacts of people you trust.

        Raises:
            ArtifactError: missing, damaged, of another version or another TVM.
        """
        path = Path(path)
        files = _read(path)
        manifest = _checked_manifest(path, files)
        try:
            tensors = safetensors.numpy.load(files[STATE])
            arrays = safetensors.numpy.load(files[STRUCTURES])
            found: dict[str, dict[str, np.ndarray]] = {}
            for key, value in arrays.items():
                param, name = key.rsplit("/", 1)
                found.setdefault(param, {})[name] = value
            structures = {p: Structure.from_arrays(a) for p, a in found.items()}
            for function in manifest["signature"].values():
                FunctionSignature.from_json(function)
        except (SafetensorError, StructureError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtifactError(f"Artifact {path} is damaged: {error}. Compile it again.") from error
        _check_tensors(path, manifest, tensors, structures)
        # The files are in an order of their own (safetensors sorts by name); the manifest's is the network's.
        tensors = {n: tensors[n] for kind in ("parameters", "frozen", "buffers") for n in manifest[kind]}
        structures = {p: structures[p] for p in manifest["parameters"] if p in structures}
        return cls(manifest, files[LIBRARY], tensors, structures)


def _manifest_hash(manifest: Mapping[str, object]) -> str:
    """sha256 of a manifest without its hashes, whatever its layout as text."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def is_artifact(path: Path) -> bool:
    """Whether something looks like an artifact: what a new one may replace. A folder with other files in it is none."""
    if path.is_file():
        return zipfile.is_zipfile(path)
    return (path / MANIFEST).is_file() and {entry.name for entry in path.iterdir()} <= {MANIFEST, *_FILES}


def _zipped(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, data in files.items():
            archive.writestr(file, data)
    return out.getvalue()


def _read(path: Path) -> dict[str, bytes]:
    try:
        restore(path)
        if path.is_file():
            with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
                return {name: archive.read(name) for name in (MANIFEST, *_FILES)}
        return {name: (path / name).read_bytes() for name in (MANIFEST, *_FILES)}
    except FileNotFoundError as error:
        raise ArtifactError(f"There is no artifact at {path}: {Path(str(error.filename)).name} is missing.") from error
    except (*_ZIP_ERRORS, KeyError, OSError, EOFError, ValueError) as error:
        raise ArtifactError(f"{path} is no whole artifact ({error}): compile it again.") from error


def _checked_manifest(path: Path, files: Mapping[str, bytes]) -> dict[str, object]:
    try:
        manifest = json.loads(files[MANIFEST])
        hashes = manifest["sha256"]
        schema, version = manifest["schema"], manifest["tvm"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"The manifest of artifact {path} is damaged: compile it again.") from error
    if schema != SCHEMA:
        raise ArtifactError(f"Artifact {path} has schema {schema}, this version reads {SCHEMA}: compile it again.")
    if version != tvm.__version__:
        raise ArtifactError(
            f"Artifact {path} was built by TVM {version}, and this is {tvm.__version__}: compile it again."
        )
    absent = [key for key in _KEYS if key not in manifest]
    if absent:
        raise ArtifactError(f"The manifest of artifact {path} lacks {absent[0]!r}: compile it again.")
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    if _manifest_hash(content) != hashes.get(MANIFEST):
        raise ArtifactError(f"{MANIFEST} of artifact {path} is damaged (its sha256 differs): compile it again.")
    for name in _FILES:
        if hashlib.sha256(files[name]).hexdigest() != hashes.get(name):
            raise ArtifactError(f"{name} of artifact {path} is damaged (its sha256 differs): compile it again.")
    return manifest


def _check_tensors(
    path: Path,
    manifest: Mapping[str, object],
    tensors: Mapping[str, np.ndarray],
    structures: Mapping[str, Structure],
) -> None:
    shapes = {**manifest["parameters"], **manifest["frozen"], **manifest["buffers"]}
    sparse = {p: SparseLayerSpec.from_json(layer) for p, layer in manifest["layers"].items() if "capacity" in layer}
    if set(tensors) != set(shapes) or set(structures) != set(sparse):
        raise ArtifactError(f"The tensors of artifact {path} are not those its manifest names: compile it again.")
    for name, tensor in tensors.items():
        if str(tensor.dtype) != manifest["dtype"] and not (name in manifest["buffers"] and tensor.dtype == np.int64):
            raise ArtifactError(
                f"Tensor {name!r} of artifact {path} is {tensor.dtype}, not {manifest['dtype']}: compile it again."
            )
        wanted = sparse[name].values_shape if name in sparse else shapes[name]
        if list(tensor.shape) != list(wanted):
            raise ArtifactError(
                f"Tensor {name!r} of artifact {path} has shape {list(tensor.shape)}, not {list(wanted)}: compile it "
                "again."
            )
    for name, structure in structures.items():
        if structure.spec != sparse[name]:
            raise ArtifactError(f"The structure of {name!r} in artifact {path} is of another layer: compile it again.")
