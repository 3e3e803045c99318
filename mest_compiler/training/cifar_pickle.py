"""Reading the Python version of CIFAR, which is pickle, without running anything a pickle may ask for.

Unpickling calls whatever the file names. Here the file may name exactly what CIFAR's batches contain, the
reconstruction of a NumPy array, and even those names lead to stand-ins that only write down what they are
given; everything else is refused.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mest_compiler.errors import DataError


class _StandIn:
    """Base of the stand-ins: refuses state, so that a pickle cannot set attributes on them."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("state where none belongs")


class _ByteType(_StandIn):
    """Stands for numpy.dtype; admits uint8, for which its state (byte order, fields) means nothing."""

    def __init__(self, name: str | bytes, align: int = 0, copy: int = 0) -> None:
        if name not in ("u1", b"u1", "uint8", b"uint8"):
            raise pickle.UnpicklingError(f"array of type {name!r}")

    def __setstate__(self, state: object) -> None:
        return


class _ByteArray(_StandIn):
    """Stands for numpy.ndarray and its _reconstruct; keeps the array made from the state it is given."""

    def __init__(self, *ignored: object) -> None:
        self.array = np.empty((0, 0), np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _ByteType, bool, bytes]) -> None:
        _version, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _ByteType) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("array that is not made of bytes")
        self.array = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Latin1(_StandIn):
    """Stands for _codecs.encode, with which Python 3 writes bytes in old protocols, always as latin1."""

    def __new__(cls, text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"encoding {encoding!r}")
        return text.encode("latin1")


ADMITTED: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _ByteArray,
    ("numpy._core.multiarray", "_reconstruct"): _ByteArray,
    ("numpy", "ndarray"): _ByteArray,
    ("numpy", "dtype"): _ByteType,
    ("_codecs", "encode"): _Latin1,
}


class _BatchReader(pickle.Unpickler):
    def __init__(self, path: Path, raw: bytes) -> None:
        # Python 2 wrote the batches: its strings are bytes.
        super().__init__(io.BytesIO(raw), encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> type:
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise DataError(
                f"{self._path} asks for {module}.{name}, which no CIFAR batch contains: the file is refused, "
                "get the original archive again"
            ) from None


def read_batch(path: Path, raw: bytes, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3072] and labels int64 [N] (entry `label_key`) of one pickled CIFAR batch.

    raw: the content of the file `path`, which is named in errors. DataError when it names anything but a NumPy array,
    is damaged, or lacks the entries.
    """
    try:
        content: Any = _BatchReader(path, raw).load()
    except DataError:
        raise
    except Exception as error:  # The pickle module's manual: a damaged file may raise any exception.
        raise DataError(f"{path} is not a CIFAR batch ({error}): get the original archive again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__} and no CIFAR batch: get the original archive again")
    # Entries are bytes in the original files and text in files that Python 3 wrote again.
    entries = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    images, labels = entries.get("data"), entries.get(label_key)
    if not isinstance(images, _ByteArray) or images.array.ndim != 2:
        raise DataError(f"{path} has no images under 'data': get the original archive again")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path} has no list of labels under {label_key!r}: is it a batch of the other CIFAR?")
    # An object array first would hide a label that does not fit 64 bits.
    if any(not -(2**63) <= label < 2**63 for label in labels):
        raise DataError(f"{path} has a label beyond 64 bits: get the original archive again")
    return images.array, np.array(labels, dtype=np.int64)
