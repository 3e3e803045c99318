"""Index arrays of entries that run straight-line bodies (patterns, kept places of a kernel's row)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from mest_compiler.sparsity.pattern import KEPT, KINDS
from mest_compiler.sparsity.structure import Structure

from ..geometry import ConvGeometry
from ..problem import LayerProblem
from .block import largest_output
from .layer import IndexArraySpec, Indexing, filled, group_of, pointers, stable_order


@dataclass(frozen=True)
class Entries:
    """Entries in structure order: int64 [n] each. `first`: place of the first value in the flat values; `kernel_row` is
    the row of the kernel they start at."""

    position: np.ndarray
    row: np.ndarray
    channel: np.ndarray
    kernel_row: np.ndarray
    body: np.ndarray
    first: np.ndarray


class _Bodies(Indexing):
    """Names of the arrays start with `prefix`; `bodies` counts the bodies of the kernel."""

    prefix: str

    def __init__(self, direction: str) -> None:
        self.back, self.counted = direction == "backward_data", direction == "backward_weight"
        # Forward and backward-weight differ in their number of groups, so each has its own order.
        self.short = self.prefix + {"forward": "", "backward_data": "_back", "backward_weight": "_weight"}[direction]

    @abstractmethod
    def bodies(self, g: ConvGeometry) -> int:
        """Number of bodies."""

    @abstractmethod
    def most(self, layer: LayerProblem) -> int:
        """Most entries there can be."""

    @abstractmethod
    def entries(self, structure: Structure, g: ConvGeometry) -> Entries:
        """The structure's entries."""

    def classes(self, g: ConvGeometry) -> int:
        """Copies of the index arrays that backward-data needs: parity classes with their own entries."""
        return 1

    def forms(self, layer: LayerProblem, groups: int) -> dict[str, IndexArraySpec]:
        """Offsets, pointers of each row, group and body, first values; forward has `row` too."""
        g, most = layer.geometry, self.most(layer)
        rows = g.channels if self.back else g.filters
        largest = largest_output(g) if self.back else g.channels * g.x.size + g.tap_offset(g.taps - 1)
        forms = {
            f"{self.short}_offset": IndexArraySpec(most, largest),
            f"{self.short}_ptr": IndexArraySpec(rows * groups * self.bodies(g) + 1, most),
            f"{self.short}_first": IndexArraySpec(most, layer.sparse.capacity * layer.sparse.unit_size),
        }
        if not self.back:
            forms["row"] = IndexArraySpec(layer.sparse.rows, layer.sparse.rows)
        return forms | (filled(layer) if self.counted else {})

    def arrays(self, structure: Structure, geometry: ConvGeometry, groups: int) -> dict[str, np.ndarray]:
        """The entries sorted by row, group and body: offsets in x or dy, bounds of the runs, first values."""
        g, e, bodies = geometry, self.entries(structure, geometry), self.bodies(geometry)
        if self.back:
            row, group, rows = e.channel, group_of(e.row, g.filters, groups), g.channels
            offset = e.row * g.dy.size + self._shift(g)[e.kernel_row]
        else:
            row, group, rows = e.position, group_of(e.channel, g.channels, groups), g.filters
            offset = e.channel * g.x.size + e.kernel_row * (g.dilation[0] * g.x.cols)
        keys = (row * groups + group) * bodies + e.body
        order = stable_order(keys)
        found = {
            f"{self.short}_offset": offset[order],
            f"{self.short}_ptr": pointers(keys, rows * groups * bodies),
            f"{self.short}_first": e.first[order],
        }
        return found if self.back else {**found, "row": structure.order}

    def _shift(self, g: ConvGeometry) -> np.ndarray:
        """Offset in dy of each kernel row's first place; patterns have theirs in the bodies."""
        return np.zeros(g.kernel[0], np.int64)


class PatternEntries(_Bodies):
    """An entry is a kept kernel, its body a pattern."""

    prefix = "pattern"

    def bodies(self, g: ConvGeometry) -> int:
        """The eight patterns."""
        return KINDS

    def most(self, layer: LayerProblem) -> int:
        """One entry a kept kernel."""
        return layer.sparse.capacity

    def entries(self, structure: Structure, g: ConvGeometry) -> Entries:
        """Each kept kernel with its pattern."""
        channel, kind = np.divmod(structure.col[: structure.entries].astype(np.int64), KINDS)
        position = np.repeat(np.arange(structure.spec.rows), structure.lengths)
        row = structure.row_of_entry().astype(np.int64)
        return Entries(position, row, channel, np.zeros_like(kind), kind, np.arange(len(kind)) * KEPT)


class RowEntries(_Bodies):
    """An entry is a row of a kernel with at least one kept weight, its body the set of those. Scheme: unstructured."""

    prefix = "taps"

    def bodies(self, g: ConvGeometry) -> int:
        """All sets of places of a kernel's row but the empty one."""
        return (1 << g.kernel[1]) - 1

    def most(self, layer: LayerProblem) -> int:
        """At most one entry a kept weight, or one a row of each kernel."""
        g = layer.geometry
        return min(layer.sparse.capacity, g.filters * g.channels * g.kernel[0])

    def entries(self, structure: Structure, g: ConvGeometry) -> Entries:
        """Each row of a kernel that keeps a weight, with the set of its kept places."""
        width = g.kernel[1]
        col = structure.col[: structure.entries].astype(np.int64)
        position = np.repeat(np.arange(structure.spec.rows), structure.lengths)
        # Kept weights of a kernel's row are neighbours in the structure: columns run place by place.
        run = position * (g.columns // width) + col // width
        first = np.flatnonzero(np.diff(run, prepend=-1))
        code = np.add.reduceat(1 << (col % width), first) if len(first) else np.zeros(0, np.int64)
        channel, kernel_row = np.divmod(col[first] // width, g.kernel[0])
        row = structure.row_of_entry().astype(np.int64)[first]
        return Entries(position[first], row, channel, kernel_row, code - 1, first)

    def _shift(self, g: ConvGeometry) -> np.ndarray:
        ((_, taps),) = g.backward_grids
        return np.array([taps[i * g.kernel[1]] for i in range(g.kernel[0])], np.int64)
