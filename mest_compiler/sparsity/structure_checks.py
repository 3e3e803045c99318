"""What must hold of a structure before a kernel may read and write through it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mest_compiler.errors import StructureError

from .layer_spec import SparseLayerSpec


class IndexArrays(Protocol):
    """What is checked of a `Structure`: its fields, and how many entries they say there are."""

    spec: SparseLayerSpec
    order: np.ndarray
    row_ptr: np.ndarray
    col: np.ndarray

    @property
    def entries(self) -> int: ...


def form_of(array: object) -> str:
    """Dtype and shape of an array, for errors; of anything else its type."""
    return f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__


def check_arrays(s: IndexArrays) -> None:
    """Raise StructureError unless the arrays' forms fit the layer, whose `spec` was checked."""
    for name, size in (("order", s.spec.rows), ("row_ptr", s.spec.rows + 1), ("col", s.spec.capacity)):
        array = getattr(s, name)
        if not isinstance(array, np.ndarray) or array.dtype != np.int32 or array.shape != (size,):
            raise StructureError(
                f"Array {name} of a structure of shape {s.spec.shape} is {form_of(array)}, not int32 ({size},)."
            )
        if not array.flags.c_contiguous:
            raise StructureError(
                f"Array {name} of a structure of shape {s.spec.shape} is not contiguous: copy it first."
            )


def check_indices(s: IndexArrays) -> None:
    """Raise StructureError unless every index is in bounds and in order; `check_arrays` must have passed."""
    where = f"of a structure of shape {s.spec.shape}"
    if not np.array_equal(np.sort(s.order), np.arange(s.spec.rows, dtype=np.int32)):
        raise StructureError(f"Array order {where} is no permutation of its {s.spec.rows} rows.")
    if s.row_ptr[0] != 0 or np.any(s.row_ptr[1:] < s.row_ptr[:-1]):
        raise StructureError(f"Array row_ptr {where} does not rise from 0, so its rows overlap.")
    if s.entries > s.spec.capacity:
        raise StructureError(f"Array row_ptr {where} reaches {s.entries}, beyond the capacity {s.spec.capacity}.")
    if np.any(s.col[s.entries :]):
        raise StructureError(f"Array col {where} is not zero beyond its {s.entries} entries.")
    col = s.col[: s.entries]
    if col.size and (col.min() < 0 or col.max() >= s.spec.columns):
        raise StructureError(f"Array col {where} leaves the range of its {s.spec.columns} columns.")
    site = s.spec.kind.site(col)
    rising = site[1:] > site[:-1]
    starts = s.row_ptr[1:-1]
    rising[starts[(starts > 0) & (starts < s.entries)] - 1] = True
    if not rising.all():
        raise StructureError(f"Array col {where} does not rise within each row: an entry is doubled or out of order.")
