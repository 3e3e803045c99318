"""Files of tensors as people have them: what torch.save, numpy.savez and safetensors write, read without running any
code that a file brings along.

A file is told by its content, not by its name: public checkpoints are called .pt, .pth, .pth.tar, .bin and more.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mest_compiler.errors import MestError

if TYPE_CHECKING:
    from collections.abc import Callable

FORMS = "a file that torch.save, numpy.savez or safetensors wrote"
_ZIP, _HEADER = b"PK", 8  # bytes before the JSON of a safetensors file
_SCALARS = (
    np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
    np.float16, np.float32, np.float64,
)  # fmt: skip
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
NUMPY_GLOBALS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in _SCALARS),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]
"""What a pickle may name beside PyTorch's own list: numbers and arrays of NumPy 1 and 2, such as a best accuracy."""
_DAMAGED = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    AssertionError, struct.error, zipfile.BadZipFile, pickle.UnpicklingError, SafetensorError,
)  # fmt: skip
"""What the readers raise of bytes that are no such file; a pickle's machine is driven by them and may raise nearly all
that there is."""
_NEEDED = re.compile(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL|Unsupported class) ([\w.]+)")
"""How PyTorch names what it would have to call, in the midst of several lines with a terminal's colours."""


def read_tensors(path: Path, what: str, error: type[MestError]) -> Mapping[Any, Any]:
    """All that a file holds, on the CPU: names to tensors, perhaps in mappings of mappings beside other values.

    Args:
        path: the file.
        what: what it is to the user, which begins every sentence: "Weights".
        error: what is raised.

    Raises:
        error: it cannot be read, needs code of its own, or holds no mapping.
    """
    try:
        content = _read(path)
    except _DAMAGED as problem:
        if isinstance(problem, pickle.UnpicklingError) and (needed := _NEEDED.search(str(problem))):
            raise error(
                f"{what} {path} cannot be read without running code of {needed[1]}, which is not done: load it where "
                "it comes from and save its tensors alone, as in torch.save(model.state_dict(), FILE)."
            ) from problem
        raise error(f"{what} {path} cannot be read ({_reason(problem)}): give {FORMS}.") from problem
    if not isinstance(content, Mapping):
        raise error(
            f"{what} {path} cannot be read (it is a {type(content).__name__}, and no tensors by name): save "
            "model.state_dict()."
        )
    return content


def _read(path: Path) -> object:
    with open(path, "rb") as file:
        start = file.read(_HEADER + 1)
    if start.startswith(_ZIP) and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            arrays = all(name.endswith(".npy") for name in archive.namelist())
        if arrays:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
    if start[_HEADER:] == b"{":
        return load_file(path)
    with torch.serialization.safe_globals(NUMPY_GLOBALS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles of other writers: they are read or they are not
        return torch.load(path, map_location="cpu", weights_only=True)


def _reason(problem: BaseException) -> str:
    """What is wrong with a file, in words that say something about it."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if isinstance(problem, RuntimeError | SafetensorError):
        return str(problem).strip().split("\n")[0].rstrip(".")
    return "it is damaged, or holds something else than tensors and numbers"
