"""Index arrays of one sparse layer: where its kept weights are, and all conversions from and to them.

An entry is a kept unit of the scheme, at a row and a column of its grid (see `Scheme.grid`). Entries stand row by row
in the order of positions (rows are reordered so that similar lengths stand together and parts have equal work), and by
ascending column within a row. Values [capacity, unit_size] follow the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mest_compiler.errors import MestError, StructureError

from .layer_spec import SparseLayerSpec
from .schemes import Shape, get_scheme
from .structure_checks import check_arrays, check_indices, form_of

_DTYPES = {"scheme": "uint8", "shape": "int64", "order": "int32", "row_ptr": "int32", "col": "int32"}


@dataclass(frozen=True, eq=False)
class Structure:
    """Where the kept weights of a layer are; made by `build` or `Structure.from_arrays`, which validate.

    Attributes:
        spec: scheme, shape of the weight and capacity, which fix the arrays' sizes.
        order: int32 [R]: row of the scheme's grid at each position.
        row_ptr: int32 [R+1]: bounds of each position's entries.
        col: int32 [capacity]: column of the scheme's grid of each entry; zero beyond row_ptr[-1].
    """

    spec: SparseLayerSpec
    order: np.ndarray
    row_ptr: np.ndarray
    col: np.ndarray

    @property
    def entries(self) -> int:
        """Kept units, at most `capacity`."""
        return int(self.row_ptr[-1])

    @property
    def lengths(self) -> np.ndarray:
        """int32 [R]: entries of each position's row."""
        return np.diff(self.row_ptr)

    def row_of_entry(self) -> np.ndarray:
        """int32 [entries]: true row (not position) of each entry."""
        return np.repeat(self.order, self.lengths)

    def unit_ids(self) -> np.ndarray:
        """int32 [entries]: the scheme's unit id of each entry, row * columns + column, in entry order."""
        return self.row_of_entry() * np.int32(self.spec.columns) + self.col[: self.entries]

    def places(self) -> np.ndarray:
        """int64 [entries, unit_size]: where in the flat weight [F*C*kh*kw] each value stands."""
        return self.spec.kind.weights_of(self.unit_ids(), self.spec.shape)

    def to_mask(self) -> np.ndarray:
        """bool mask [F, C, kh, kw], True = kept."""
        return self.spec.kind.mask_of(self.unit_ids(), self.spec.shape)

    def compact(self, weight: np.ndarray) -> np.ndarray:
        """Values [capacity, unit_size] of a dense weight [F, C, kh, kw], in entry order; tail zero, dtype kept.

        Raises:
            StructureError: the weight has another shape.
        """
        if tuple(weight.shape) != self.spec.shape:
            raise StructureError(
                f"A structure of shape {self.spec.shape} cannot compact a weight of shape {weight.shape}."
            )
        values = np.zeros(self.spec.values_shape, weight.dtype)
        values[: self.entries] = weight.reshape(-1)[self.places()]
        return values

    def expand(self, values: np.ndarray) -> np.ndarray:
        """Dense weight [F, C, kh, kw] of values [capacity, unit_size], zero where nothing is kept; dtype kept.

        Raises:
            StructureError: the values have another shape.
        """
        self._check_values(values)
        weight = np.zeros(self.spec.dense_size, values.dtype)
        weight[self.places()] = values[: self.entries]
        return weight.reshape(self.spec.shape)

    def kept_units(self) -> np.ndarray:
        """int32 [entries]: ascending ids of the kept units, whatever the order of the rows."""
        return np.sort(self.unit_ids())

    def by_unit(self, values: np.ndarray) -> np.ndarray:
        """Values [entries, unit_size] in ascending order of unit ids, of values [capacity, unit_size]; dtype kept.

        Raises:
            StructureError: the values have another shape.
        """
        self._check_values(values)
        ascending = np.empty((self.entries, self.spec.unit_size), values.dtype)
        ascending[ascending_to_entries(self.order, self.row_ptr)] = values[: self.entries]
        return ascending

    def from_unit_values(self, ascending: np.ndarray) -> np.ndarray:
        """Values [capacity, unit_size] of values [entries, unit_size] in ascending order of unit ids; tail zero.

        Raises:
            StructureError: the values have another shape.
        """
        if ascending.shape != (self.entries, self.spec.unit_size):
            raise StructureError(
                f"Values of shape {ascending.shape} are not those of {self.entries} units of {self.spec.unit_size} "
                "weights."
            )
        values = np.zeros(self.spec.values_shape, ascending.dtype)
        values[: self.entries] = ascending[ascending_to_entries(self.order, self.row_ptr)]
        return values

    def remap(self, new: Structure, values: np.ndarray, survivors: np.ndarray | None = None) -> np.ndarray:
        """Values [new.spec.capacity, unit_size] for the new structure; dtype kept, tail zero.

        What both structures keep carries over, or of it only the `survivors` (ascending unit ids); all else that the
        new one keeps is zero.

        Raises:
            StructureError: the new structure is of another layer or scheme, or the values have another shape.
        """
        self._check_values(values)
        if (new.spec.shape, new.spec.scheme) != (self.spec.shape, self.spec.scheme):
            raise StructureError(
                f"Values of a {self.spec.scheme} layer of shape {self.spec.shape} cannot move to a {new.spec.scheme} "
                f"structure of shape {new.spec.shape}: a mutation keeps shape and scheme."
            )
        units = self.unit_ids()
        entry_of_unit = np.full(self.spec.rows * self.spec.columns, -1, np.int32)
        entry_of_unit[units] = np.arange(self.entries, dtype=np.int32)
        if survivors is not None:
            gone = np.ones(len(entry_of_unit), np.bool_)
            gone[survivors] = False
            entry_of_unit[gone] = -1
        source = entry_of_unit[new.unit_ids()]
        carried = source >= 0
        moved = np.zeros(new.spec.values_shape, values.dtype)
        moved[np.flatnonzero(carried)] = values[source[carried]]
        return moved

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays: `scheme` (uint8, UTF-8), `shape` (int64 [4]), `order`, `row_ptr`, `col`."""
        return {
            "scheme": np.frombuffer(self.spec.scheme.encode(), np.uint8).copy(),
            "shape": np.array(self.spec.shape, np.int64),
            "order": self.order,
            "row_ptr": self.row_ptr,
            "col": self.col,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Structure:
        """The structure `to_arrays` wrote, validated.

        Raises:
            StructureError: an array is missing, unknown, of another form or inconsistent with the others.
        """
        if set(arrays) != set(_DTYPES):
            found = ", ".join(sorted(arrays)) or "none"
            raise StructureError(f"A stored structure has the arrays {', '.join(_DTYPES)}, but these have: {found}.")
        for name, dtype in _DTYPES.items():
            array = arrays[name]
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
                raise StructureError(f"Array {name} of a stored structure is {form_of(array)}, not {dtype} in a row.")
        try:
            scheme = get_scheme(arrays["scheme"].tobytes().decode())
        except (MestError, UnicodeDecodeError) as error:
            raise StructureError(f"A stored structure has no readable scheme: {error}") from error
        col = arrays["col"]
        spec = SparseLayerSpec(scheme.name, tuple(arrays["shape"].tolist()), col.size)
        loaded = cls(spec, arrays["order"], arrays["row_ptr"], col)
        loaded.validate()
        return loaded

    def validate(self) -> None:
        """Check all that a kernel relies on: forms, bounds, sorted columns, pointers, capacity, permutation.

        Raises:
            StructureError: one sentence on the first thing that is wrong.
        """
        self.spec.check()
        check_arrays(self)
        check_indices(self)

    def _check_values(self, values: np.ndarray) -> None:
        """Raise StructureError unless the values are [capacity, unit_size]."""
        expected = self.spec.values_shape
        if values.shape != expected:
            raise StructureError(
                f"Values of shape {values.shape} do not fit a {self.spec.scheme} structure of shape {self.spec.shape}, "
                f"whose values are {expected}."
            )


def build(mask: np.ndarray, scheme: str, capacity: int | None = None, parts: int | None = 1) -> Structure:
    """The structure of a bool mask [F, C, kh, kw].

    Args:
        mask: True = kept; rows may be empty or full.
        scheme: a name or alias in the registry.
        capacity: the most entries the layer will ever have; None: as many as there are, at least 1 so that no
            kernel gets an empty array.
        parts: how many contiguous runs of positions are to have equal work, see `deal_rows`; 1 leaves the
            rows sorted by falling length, None as they are.

    Raises:
        MaskError: not a mask of the scheme.
        ProfileError: unknown scheme, or one that cannot cut this shape into units.
        StructureError: more entries than capacity, fewer than one part, or sizes over the range of int32.
    """
    shape = tuple(int(size) for size in mask.shape)
    return from_units(get_scheme(scheme).units_of(mask), shape, scheme, capacity, parts)


def from_units(
    units: np.ndarray, shape: Shape, scheme: str, capacity: int | None = None, parts: int | None = 1
) -> Structure:
    """The structure of kept units, ascending ids as integers [n]; the rest as `build`, which takes a mask.

    Raises:
        StructureError: also ids that do not ascend, are out of range or exclude each other.
    """
    kind = get_scheme(scheme)
    rows, columns = kind.grid(shape)
    entries = len(units)
    if entries and (units[0] < 0 or units[-1] >= rows * columns or np.any(units[1:] <= units[:-1])):
        raise StructureError(
            f"Kept units of a {kind.name} layer of shape {shape} are ascending ids below {rows * columns}."
        )
    if capacity is None:
        capacity = max(entries, 1)
    spec = SparseLayerSpec(kind.name, shape, capacity)
    spec.check()
    if entries > capacity:
        raise StructureError(
            f"A {kind.name} mask of shape {shape} keeps {entries} units, more than the capacity {capacity} "
            "it was compiled for: compile for a smaller sparsity or remove units first."
        )
    row, column = np.divmod(units, columns)
    lengths = np.bincount(row, minlength=rows)
    order = np.arange(rows, dtype=np.int32) if parts is None else deal_rows(lengths, parts)
    row_ptr = _pointers(lengths[order])
    col = np.zeros(capacity, np.int32)
    col[:entries] = column[ascending_to_entries(order, row_ptr)]
    built = Structure(spec, order, row_ptr, col)
    built.validate()
    return built


def ascending_to_entries(order: np.ndarray, row_ptr: np.ndarray) -> np.ndarray:
    """int64 [entries]: for each entry, the place of its unit among all kept ones in ascending order of ids."""
    lengths = np.diff(row_ptr).astype(np.int64)
    of_row = np.empty_like(lengths)
    of_row[order] = lengths
    first = (np.cumsum(of_row) - of_row)[order]
    return np.arange(row_ptr[-1]) + np.repeat(first - row_ptr[:-1], lengths)


def deal_rows(lengths: np.ndarray, parts: int) -> np.ndarray:
    """int32 [R]: row at each position, so that runs of ceil(R/parts) positions have nearly equal work.

    Rows by falling length (stable) are dealt to the runs to and fro, so lengths fall within a run too. Where
    R is a multiple of parts, two runs differ by at most the longest row minus the shortest; else the last run
    is shorter.

    Args:
        lengths: integers [R], entries of each row.
        parts: number of runs.

    Raises:
        StructureError: fewer than one part.
    """
    if parts < 1:
        raise StructureError(f"Rows cannot be dealt out to {parts} parts: use at least 1.")
    run, turn = np.divmod(np.arange(len(lengths)), -(-len(lengths) // parts))
    # Positions in dealing order: turn by turn, every second turn from the last run backwards.
    dealt = np.lexsort((np.where(turn % 2, -run, run), turn))
    order = np.empty(len(lengths), np.int32)
    order[dealt] = np.argsort(-lengths.astype(np.int64), kind="stable")
    return order


def _pointers(counts: np.ndarray) -> np.ndarray:
    """int32 [len(counts)+1]: bounds of consecutive runs of these sizes."""
    pointers = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=pointers[1:])
    return pointers
