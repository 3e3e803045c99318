"""Checkpoints of a training run, the same for every engine: one safetensors file with a checksum, written whole or
not at all.

What is sparse is stored compactly, [units, unit_size] in ascending order of unit ids, so the file depends neither on
how a device orders its structures nor on their capacity. Tensors are named

    state/NAME            a parameter, or running statistics; of a sparse parameter its compact values
    optimizer/SLOT/NAME   what the optimiser keeps of a parameter, likewise
    units/NAME            int32 [units], ascending ids of the units that a sparse parameter keeps
    loop/NAME             arrays of the training loop

Form 2, which knew SGD's momentum alone, is read too: its momentum/NAME is optimizer/momentum/NAME.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from mest_compiler.errors import CheckpointError, StructureError
from mest_compiler.files import write_bytes
from mest_compiler.optimizers import Optimizer
from mest_compiler.sparsity.schemes import Scheme, get_scheme, kernel_shape
from mest_compiler.sparsity.structure import from_units

Form = tuple[str, Sequence[int]]

_STATE, _OPTIMIZER, _UNITS, _LOOP = "state", "optimizer", "units", "loop"
FORM, FORM_2 = "mest-checkpoint-3", "mest-checkpoint-2"
_OF_FORM_2 = "momentum"


@dataclass(frozen=True)
class Content:
    """All of a checkpoint. The order of names in it is the file's and means nothing: the model's own counts.

    state: by torch name, compact where sparse; slots: of the optimiser by slot and then likewise; units: of the sparse
    parameters; extra: JSON values and
    arrays: arrays, both the caller's; seed and steps: what draws the masks of the dropouts; schemes: of the sparse
    parameters, by name, in what was read (`write` takes them from the identity).
    """

    state: Mapping[str, np.ndarray]
    slots: Mapping[str, Mapping[str, np.ndarray]]
    units: Mapping[str, np.ndarray]
    extra: dict[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0
    steps: int = 0
    schemes: Mapping[str, str] = field(default_factory=dict)

    def tensors(self) -> dict[str, np.ndarray]:
        """All arrays by their names in the file."""
        parts = {_STATE: self.state, _UNITS: self.units, _LOOP: self.arrays}
        parts |= {f"{_OPTIMIZER}/{slot}": arrays for slot, arrays in self.slots.items()}
        return {f"{part}/{name}": np.asarray(a, order="C") for part, some in parts.items() for name, a in some.items()}

    def dense_state(self, shapes: Mapping[str, Sequence[int]], source: str) -> dict[str, np.ndarray]:
        """Parameters and running statistics as torch has them, with their zeros; see `_dense`."""
        return self._dense(self.state, shapes, source)

    def dense_slot(self, slot: str, shapes: Mapping[str, Sequence[int]], source: str) -> dict[str, np.ndarray]:
        """A slot by parameter name, likewise."""
        return self._dense(self.slots[slot], shapes, source)

    def _dense(
        self, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int]], source: str
    ) -> dict[str, np.ndarray]:
        """Tensors that are compact where sparse, with their zeros; of what was read.

        Args:
            shapes: of all of them, by torch name, in the order of the result.
            source: where this was read, for errors.

        Raises:
            CheckpointError: this is of a model with other names or shapes.
        """
        for name in (*shapes, *tensors):
            if name not in shapes or name not in tensors:
                who = "the checkpoint" if name in shapes else "the model"
                raise CheckpointError(f"{source} is of another model than its recipe says: {who} has no {name!r}.")
        dense = {}
        for name, shape in shapes.items():
            values = tensors[name]
            if name in self.units:
                places = self._scheme(name, shape, source).weights_of(self.units[name], kernel_shape(shape))
                if values.shape == places.shape:
                    compact, values = values, np.zeros(tuple(shape), values.dtype)
                    values.reshape(-1)[places] = compact
            if values.shape != tuple(shape):
                raise CheckpointError(
                    f"{source} is of another model than its recipe says: its {name!r} does not have the shape "
                    f"{list(shape)}."
                )
            dense[name] = values
        return dense

    def masks(self, shapes: Mapping[str, Sequence[int]], source: str) -> dict[str, np.ndarray]:
        """bool masks [F, C, kh, kw], True = kept, of the sparse parameters by name in the order of `shapes`; arguments
        and errors as of `dense_state`, which is asked first whether the model is this one."""
        return {
            name: self._scheme(name, shape, source).mask_of(self.units[name], kernel_shape(shape))
            for name, shape in shapes.items()
            if name in self.units
        }

    def _scheme(self, name: str, shape: Sequence[int], source: str) -> Scheme:
        """Scheme of a sparse parameter, once its units are known to be units of this shape."""
        if name not in self.schemes:
            raise CheckpointError(f"{source} does not say the scheme of {name!r}: use a checkpoint of this version.")
        scheme, units, shape = get_scheme(self.schemes[name]), self.units[name], kernel_shape(shape)
        if len(units) and not 0 <= units.min() <= units.max() < scheme.units(shape):
            raise CheckpointError(f"{source} keeps units of {name!r} that shape {shape} does not have: use another.")
        return scheme


@dataclass(frozen=True)
class Identity:
    """What must agree between who writes a checkpoint and who reads it.

    parameters, buffers: (dtype, shape) by torch name, as torch has them; schemes: of the sparse parameters; optimizer:
    with its settings.
    """

    parameters: Mapping[str, Form]
    buffers: Mapping[str, Form]
    schemes: Mapping[str, str]
    optimizer: Optimizer

    def digest(self, form: str = FORM) -> str:
        """sha256 of all, as a file of this form has it."""
        forms = [{n: [dtype, list(shape)] for n, (dtype, shape) in f.items()} for f in (self.parameters, self.buffers)]
        facts = self.optimizer.facts()
        if form == FORM_2:
            del facts["name"]
        said = [*forms, dict(self.schemes), facts]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    state = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        state.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        state.update(np.asarray(arrays[name], order="C").tobytes())
    return state.hexdigest()


def write(path: str | Path, content: Content, identity: Identity) -> None:
    """Writes a checkpoint, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    path, arrays = Path(path), content.tensors()
    try:
        said = {"extra": content.extra, "seed": content.seed, "steps": content.steps, "schemes": dict(identity.schemes)}
        text = json.dumps(said)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"What goes with checkpoint {path} is no JSON ({error}).") from error
    metadata = {"form": FORM, "of": identity.digest(), "text": text, "sha256": _digest(arrays, text)}
    try:
        write_bytes(path, safetensors.numpy.save(arrays, metadata))
    except OSError as error:
        raise CheckpointError(f"Checkpoint {path} could not be written: {error.strerror}.") from error


def read(path: str | Path, identity: Identity | None) -> Content:
    """Reads and verifies a checkpoint; with None, of whatever network.

    What comes back fits `identity` in every name, dtype, shape and unit id.

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
    form = metadata.get("form")
    if form not in (FORM, FORM_2):
        raise CheckpointError(f"{path} is no checkpoint of this version: name a file that a run of it saved.")
    text = metadata.get("text", "")
    if metadata.get("sha256") != _digest(arrays, text):
        raise CheckpointError(f"Checkpoint {path} is damaged (its sha256 differs): use an earlier one.")
    if identity is not None and metadata.get("of") != identity.digest(form):
        raise CheckpointError(
            f"Checkpoint {path} is of another model, optimiser or sparsity scheme than this run: resume with its own."
        )
    found: dict[str, dict[str, np.ndarray]] = {part: {} for part in (_STATE, _UNITS, _LOOP)}
    slots: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        part, _, name = key.partition("/")
        slot, _, parameter = name.partition("/")
        if form == FORM_2 and part == _OF_FORM_2:
            part, slot, parameter = _OPTIMIZER, _OF_FORM_2, name
        if part == _OPTIMIZER:
            slots.setdefault(slot, {})[parameter] = array
        elif part in found:
            found[part][name] = array
        else:
            raise CheckpointError(f"Checkpoint {path} has the unknown tensor {key!r}: use another one.")
    if form == FORM_2 and identity is not None and not identity.optimizer.slots:
        slots.clear()  # SGD without momentum kept one nevertheless
    try:
        said = json.loads(text)
        extra, seed, steps, schemes = (said[key] for key in ("extra", "seed", "steps", "schemes"))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"Checkpoint {path} is damaged ({error!r}): use an earlier one.") from error
    mappings = isinstance(extra, dict) and isinstance(schemes, dict)
    if not mappings or any(type(number) is not int or number < 0 for number in (seed, steps)):
        raise CheckpointError(f"Checkpoint {path} is damaged (what its text says): use an earlier one.")
    content = Content(found[_STATE], slots, found[_UNITS], extra, found[_LOOP], seed, steps, schemes)
    if identity is not None:
        _check_fits(path, content, identity)
    return content


def _check_fits(path: Path, content: Content, identity: Identity) -> None:
    """Raise CheckpointError unless every tensor is what the network has there."""
    forms = {**identity.parameters, **identity.buffers}
    slots = {f"{_OPTIMIZER}/{slot}": arrays for slot, arrays in content.slots.items()}
    known = {f"{_OPTIMIZER}/{slot}": identity.parameters for slot in identity.optimizer.slots}
    wanted = {_UNITS: identity.schemes, _STATE: forms, **known}
    there = {_UNITS: content.units, _STATE: content.state, **slots}
    for part in {**wanted, **there}:
        found, names = there.get(part, {}), wanted.get(part, {})
        if found.keys() != names.keys():
            name = sorted(found.keys() ^ names.keys())[0]
            what = "has the unknown" if name in found else "lacks the"
            raise CheckpointError(f"Checkpoint {path} {what} tensor '{part}/{name}': use another one.")
    compact = {}
    for name, scheme in identity.schemes.items():
        units, shape = content.units[name], kernel_shape(forms[name][1])
        if units.dtype != np.int32 or units.ndim != 1:
            raise CheckpointError(
                f"Checkpoint {path} has {units.dtype} {units.shape} for units of {name!r}, not int32."
            )
        try:
            from_units(units, shape, scheme, parts=None)
        except StructureError as error:
            raise CheckpointError(f"Checkpoint {path} has wrong units of {name!r}: {error}") from error
        compact[name] = (len(units), get_scheme(scheme).unit_size(shape))
    for part in (_STATE, *slots):
        for name, array in there[part].items():
            dtype, shape = forms[name][0], compact.get(name, tuple(forms[name][1]))
            if array.dtype != dtype or array.shape != shape:
                raise CheckpointError(
                    f"Checkpoint {path} has {array.dtype} {array.shape} for '{part}/{name}', which is {dtype} {shape} "
                    "here: use another one."
                )
