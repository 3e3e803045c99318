"""What must hold of a structure before a kernel may read and write through it."""

from __future__ import annotations

from math import prod
from typing import Protocol

import numpy as np

from mest_compiler.errors import MestError, StructureError

from .schemes import Scheme, Shape, get_scheme

INT32_MAX = 2**31 - 1


class IndexArrays(Protocol):
    """What is checked of a `Structure`: its fields and the sizes that follow from them."""

    scheme: str
    shape: Shape
    capacity: int
    order: np.ndarray
    row_ptr: np.ndarray
    col: np.ndarray

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def entries(self) -> int: ...


def form_of(array: object) -> str:
    """Dtype and shape of an array, for errors; of anything else its type."""
    return f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__


def check_int32(size: int, what: str, advice: str) -> None:
    """Raise StructureError when a count is out of the range of the kernels' 32-bit indices."""
    if size > INT32_MAX:
        raise StructureError(f"There are {size} {what}, more than 32-bit indices can reach: {advice}.")


def check_sizes(kind: Scheme, shape: Shape, capacity: int) -> None:
    """Raise StructureError unless dense weights and compact values can be counted in int32."""
    if capacity < 1:
        raise StructureError(f"A layer of shape {shape} cannot have a capacity of {capacity} entries: use at least 1.")
    check_int32(prod(shape), f"weights in a layer of shape {shape}", "split the layer")
    check_int32(
        capacity * kind.unit_size(shape), f"values in the capacity of a layer of shape {shape}", "lower the capacity"
    )


def check_header(s: IndexArrays) -> None:
    """Raise StructureError unless scheme, shape, capacity and the arrays' forms fit each other."""
    if not isinstance(s.shape, tuple) or not all(isinstance(size, int) for size in (*s.shape, s.capacity)):
        raise StructureError(
            f"A structure has shape {s.shape!r} and capacity {s.capacity!r}: use a tuple of integers and an integer."
        )
    try:
        kind = get_scheme(s.scheme)
        kind.check_shape("(of the structure)", s.shape)
    except MestError as error:
        raise StructureError(f"The scheme of a structure does not fit its shape: {error}") from error
    if s.scheme != kind.name:
        raise StructureError(f"A structure says scheme {s.scheme!r} instead of {kind.name!r}: use the registry's name.")
    check_sizes(kind, s.shape, s.capacity)
    for name, size in (("order", s.rows), ("row_ptr", s.rows + 1), ("col", s.capacity)):
        array = getattr(s, name)
        if not isinstance(array, np.ndarray) or array.dtype != np.int32 or array.shape != (size,):
            raise StructureError(
                f"Array {name} of a structure of shape {s.shape} is {form_of(array)}, not int32 ({size},)."
            )
        if not array.flags.c_contiguous:
            raise StructureError(f"Array {name} of a structure of shape {s.shape} is not contiguous: copy it first.")


def check_indices(s: IndexArrays) -> None:
    """Raise StructureError unless every index is in bounds and in order; `check_header` must have passed."""
    where = f"of a structure of shape {s.shape}"
    if not np.array_equal(np.sort(s.order), np.arange(s.rows, dtype=np.int32)):
        raise StructureError(f"Array order {where} is no permutation of its {s.rows} rows.")
    if s.row_ptr[0] != 0 or np.any(s.row_ptr[1:] < s.row_ptr[:-1]):
        raise StructureError(f"Array row_ptr {where} does not rise from 0, so its rows overlap.")
    if s.entries > s.capacity:
        raise StructureError(f"Array row_ptr {where} reaches {s.entries}, beyond the capacity {s.capacity}.")
    if np.any(s.col[s.entries :]):
        raise StructureError(f"Array col {where} is not zero beyond its {s.entries} entries.")
    col = s.col[: s.entries]
    if col.size and (col.min() < 0 or col.max() >= s.columns):
        raise StructureError(f"Array col {where} leaves the range of its {s.columns} columns.")
    site = get_scheme(s.scheme).site(col)
    rising = site[1:] > site[:-1]
    starts = s.row_ptr[1:-1]
    rising[starts[(starts > 0) & (starts < s.entries)] - 1] = True
    if not rising.all():
        raise StructureError(f"Array col {where} does not rise within each row: an entry is doubled or out of order.")
