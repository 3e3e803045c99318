"""Examples of one's own numbers: arrays of inputs and targets by name, from one .npz or .safetensors file or memory.

A file holds train/NAME and test/NAME for every input and every target. Nothing is normalised or split here:
who wants zero means subtracts them before.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from mest_compiler.errors import DataError
from mest_compiler.losses.base import LABEL, TARGET
from mest_compiler.signature import TensorSpec

ARRAYS = "arrays"
"""Name of the data set."""
PARTS = ("train", "test")
FLOATS = ("float16", "float32", "float64")
"""Become float32, in which networks are trained."""
WHOLE = ("bool", "uint8", "int8", "int16", "int32", "int64")
"""Stay as they are, but that whole numbers as targets become int64, which PyTorch wants of labels."""
IMAGE_AXES = 3
_ZIP, _HEADER = b"PK", 8  # bytes before the JSON of a safetensors file
_DAMAGED = (OSError, EOFError, ValueError, LookupError, TypeError, SafetensorError, zipfile.BadZipFile, zlib.error)
"""What the readers raise of bytes that are no such file."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ArrayData:
    """Examples in memory, as `Examples` wants them.

    train, test: arrays [N, ...] by name, inputs and targets; of both parts the same names, shapes of an example and
    dtypes. target_names: which of them are targets, those that the loss takes. read_from: the file, by its name.
    source: what errors call it.

    Raises:
        DataError: names, shapes or dtypes do not agree, or a number is none.
    """

    train: Arrays
    test: Arrays
    target_names: tuple[str, ...] = (TARGET,)
    read_from: Mapping[str, Path] = field(default_factory=dict)
    source: str = "the data"
    name: str = ARRAYS

    def __post_init__(self) -> None:
        self._check_names()
        for part in PARTS:
            arrays = {name: self._taken(part, name, array) for name, array in getattr(self, part).items()}
            object.__setattr__(self, part, arrays)
            (first, one), *others = arrays.items()
            for name, array in others:
                if len(array) != len(one):
                    raise self._wrong(
                        f"has {len(one)} examples in {part}/{first} and {len(array)} in {part}/{name}: their first "
                        "axes count the same examples"
                    )
        for name, array in self.train.items():
            theirs = self.test[name]
            if (array.shape[1:], array.dtype) != (theirs.shape[1:], theirs.dtype):
                raise self._wrong(
                    f"has {_form(array)} in train/{name} and {_form(theirs)} in test/{name}: an example is the same in "
                    "both parts"
                )

    def _wrong(self, what: str) -> DataError:
        return DataError(f"{self.source} {what}")

    def _check_names(self) -> None:
        """Both parts have all targets, an input, and the same arrays."""
        for part, other in (PARTS, PARTS[::-1]):
            ours, theirs = getattr(self, part), getattr(self, other)
            for name in theirs:
                if name not in ours:
                    raise self._wrong(f"has {other}/{name} and no {part}/{name}: add it, or remove the other")
            for name in self.target_names:
                if name not in ours:
                    raise self._wrong(f"has no {part}/{name}, the target that a loss compares with: add it")
        if not set(self.train) - set(self.target_names):
            raise self._wrong("has no inputs: add train/NAME and test/NAME for each argument of the model's forward")

    def _taken(self, part: str, name: str, array: np.ndarray) -> np.ndarray:
        """An array as training takes it."""
        place, array = f"{part}/{name}", np.asarray(array)
        if array.dtype.name not in FLOATS + WHOLE:
            raise self._wrong(f"has {array.dtype} in {place}: save one of {', '.join(FLOATS + WHOLE)}")
        if not array.ndim or not array.size:
            raise self._wrong(f"has {_form(array)} in {place}, which is no example: its first axis counts them")
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):
                array = array.astype(np.float32, copy=False)
            bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
            if len(bad):
                raise self._wrong(
                    f"has numbers in {place} that are NaN, infinite or beyond float32, in {len(bad)} of {len(array)} "
                    f"examples, first in number {bad[0]}: correct or remove them"
                )
            return array
        return array.astype(np.int64) if name in self.target_names and array.dtype.kind in "iu" else array

    def _specs(self, targets: bool) -> dict[str, TensorSpec]:
        return {
            name: TensorSpec(array.shape[1:], array.dtype.name)
            for name, array in self.train.items()
            if (name in self.target_names) == targets
        }

    @cached_property
    def inputs(self) -> dict[str, TensorSpec]:
        """All that are no targets."""
        return self._specs(False)

    @cached_property
    def targets(self) -> dict[str, TensorSpec]:
        """As named."""
        return self._specs(True)

    @property
    def classes(self) -> None:
        """Labels may leave the last ones out."""
        return None

    @property
    def labels(self) -> np.ndarray | None:
        """The only target, where it is one whole number an example."""
        return self.train[self.target_names[0]] if list(self.targets.values()) == [LABEL] else None

    @property
    def sizes(self) -> dict[str, int]:
        """classes: one more than the largest label, or as many as a target has numbers in a row; in_channels: of an
        only input that is an image."""
        found, targets, inputs = {}, list(self.targets.values()), list(self.inputs.values())
        if self.labels is not None:
            found["classes"] = int(max(part[self.target_names[0]].max() for part in (self.train, self.test))) + 1
        elif len(targets) == 1 and len(targets[0].shape) == 1:
            found["classes"] = targets[0].shape[0]
        if len(inputs) == 1 and len(inputs[0].shape) == IMAGE_AXES:
            found["in_channels"] = inputs[0].shape[0]
        return {name: max(size, 1) for name, size in found.items()}

    @property
    def train_count(self) -> int:
        """Number of training examples."""
        return len(self.train[self.target_names[0]])

    @property
    def test_count(self) -> int:
        """Number of test examples."""
        return len(self.test[self.target_names[0]])

    def train_inputs(self, ids: np.ndarray, rng: np.random.Generator | None, share: slice) -> dict[str, np.ndarray]:
        """Of training examples, which nothing is done to."""
        return {name: self.train[name][ids[share]] for name in self.inputs}

    def train_targets(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Of training examples."""
        return {name: self.train[name][ids] for name in self.targets}

    def test_inputs(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Of test examples."""
        return {name: self.test[name][ids] for name in self.inputs}

    def test_targets(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Of test examples."""
        return {name: self.test[name][ids] for name in self.targets}

    def with_training(self, ids: np.ndarray) -> ArrayData:
        """The same data with the training examples `ids` (int64, ascending) only."""
        return replace(self, train={name: array[ids] for name, array in self.train.items()})

    def fingerprint(self) -> str:
        """A short digest of names, forms and the first examples."""
        return self._digest(64)[:16]

    def digest(self) -> str:
        """Of all arrays; "" where a file holds them."""
        return "" if self.read_from else self._digest(None)

    def _digest(self, first: int | None) -> str:
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            for name in sorted(part):
                digest.update(f"{name} {part[name].shape} {part[name].dtype}\0".encode())
                digest.update(np.ascontiguousarray(part[name][:first]))
        return digest.hexdigest()

    def files(self) -> Mapping[str, Path]:
        """The file."""
        return self.read_from


def read_arrays(path: Path | str | None, target_names: tuple[str, ...] = (TARGET,)) -> ArrayData:
    """The examples in a .npz or .safetensors file, told apart by what is in them; no code of a file is run.

    target_names: of the arrays that the loss takes.

    Raises:
        DataError: no such file, or not the arrays that `ArrayData` wants.
    """
    if path is None:
        raise DataError(f"data set {ARRAYS} is read from one .npz or .safetensors file: name it with --data-root")
    path = Path(path)
    found: dict[str, dict[str, np.ndarray]] = {part: {} for part in PARTS}
    for key, array in _read(path).items():
        part, _, name = key.partition("/")
        if part not in PARTS or not name:
            raise DataError(f"{path} has the array {key!r}: call it train/NAME or test/NAME, or leave it out")
        found[part][name] = array
    return ArrayData(found["train"], found["test"], target_names, {path.name: path}, str(path))


def _read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file by their keys."""
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER + 1)
        if start.startswith(_ZIP):
            with np.load(path, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        if start[_HEADER:] == b"{":
            return safetensors.numpy.load_file(path)
    except _DAMAGED as error:
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0].rstrip(".") or "it is damaged"
        raise DataError(
            f"{path} cannot be read ({reason}): give a file of plain numbers that numpy.savez or safetensors wrote"
        ) from error
    raise DataError(f"{path} is no .npz and no .safetensors file: save the arrays with numpy.savez or safetensors")


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
