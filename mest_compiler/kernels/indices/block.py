"""Index arrays of blocks (m filters by n channels at one kernel place): an entry is an offset and a value row."""

from __future__ import annotations

import numpy as np

from mest_compiler.sparsity.block import Block
from mest_compiler.sparsity.structure import Structure

from ..geometry import ConvGeometry
from ..problem import LayerProblem
from .layer import IndexArraySpec, Indexing, filled, group_of, pointers, stable_order


def input_offsets(g: ConvGeometry) -> np.ndarray:
    """int64 [taps]: offset in x of every kernel place."""
    return np.array([g.tap_offset(t) for t in range(g.taps)], np.int64)


def largest_input(g: ConvGeometry) -> int:
    """Largest offset in x of an entry."""
    return g.channels * g.x.size + int(input_offsets(g).max())


def _channel_and_tap(structure: Structure, g: ConvGeometry) -> tuple[np.ndarray, np.ndarray]:
    """First channel and kernel place of every entry."""
    kind: Block = structure.spec.kind
    block, tap = np.divmod(structure.col[: structure.entries].astype(np.int64), g.taps)
    return block * kind.channels, tap


class RowsOfFilters(Indexing):
    """`offset` [capacity] in x, row pointers [rows*groups+1], `row` [rows]: forward; and `entries`: backward-weight."""

    def __init__(self, direction: str) -> None:
        self.pointer = {"forward": "forward_ptr", "backward_weight": "weight_ptr"}[direction]
        self.counted = direction == "backward_weight"

    def forms(self, layer: LayerProblem, groups: int) -> dict[str, IndexArraySpec]:
        """`offset`, the pointers of each row and group, `row`, and for backward-weight `entries`."""
        rows = layer.sparse.rows
        return {
            "offset": IndexArraySpec(layer.sparse.capacity, largest_input(layer.geometry)),
            self.pointer: IndexArraySpec(rows * groups + 1, layer.sparse.capacity),
            "row": IndexArraySpec(rows, rows),
            **(filled(layer) if self.counted else {}),
        }

    def arrays(self, structure: Structure, geometry: ConvGeometry, groups: int) -> dict[str, np.ndarray]:
        """Offsets of the entries in x, bounds of the runs of each row and group, the rows as they are ordered."""
        channel, tap = _channel_and_tap(structure, geometry)
        position = np.repeat(np.arange(structure.spec.rows), structure.lengths)
        keys = position * groups + group_of(channel, geometry.channels, groups)
        return {
            "offset": channel * geometry.x.size + input_offsets(geometry)[tap],
            self.pointer: pointers(keys, structure.spec.rows * groups),
            "row": structure.order,
        }


class RowsOfChannels(Indexing):
    """`back_offset` [capacity] in dy, `back_ptr` [classes * C/n * groups + 1], `back_perm` [capacity]: backward-data.

    Entries stand by (parity class of the place, block of channels, group of filters).
    """

    def forms(self, layer: LayerProblem, groups: int) -> dict[str, IndexArraySpec]:
        """`back_offset`, `back_ptr` of each parity class, block of channels and group, `back_perm`."""
        g, kind = layer.geometry, layer.sparse.kind
        runs = len(g.backward_grids) * (g.channels // kind.channels) * groups
        return {
            "back_offset": IndexArraySpec(layer.sparse.capacity, largest_output(g)),
            "back_ptr": IndexArraySpec(runs + 1, layer.sparse.capacity),
            "back_perm": IndexArraySpec(layer.sparse.capacity, layer.sparse.capacity),
        }

    def arrays(self, structure: Structure, geometry: ConvGeometry, groups: int) -> dict[str, np.ndarray]:
        """Of the entries that reach a pixel of dX: offsets in dy, bounds of their runs, numbers in the structure."""
        g, kind, grids = geometry, structure.spec.kind, geometry.backward_grids
        channel, tap = _channel_and_tap(structure, g)
        filter_ = structure.row_of_entry().astype(np.int64) * kind.filters
        class_of, shift = np.full(g.taps, -1, np.int64), np.zeros(g.taps, np.int64)
        for number, (_, taps) in enumerate(grids):
            for t, offset in taps.items():
                class_of[t], shift[t] = number, offset
        # A place that reaches no pixel of dX (a plane smaller than the kernel) has no class and no entry here.
        used = np.flatnonzero(class_of[tap] >= 0)
        blocks = g.channels // kind.channels
        keys = (class_of[tap] * blocks + channel // kind.channels) * groups + group_of(filter_, g.filters, groups)
        perm = used[stable_order(keys[used])]
        return {
            "back_offset": filter_[perm] * g.dy.size + shift[tap[perm]],
            "back_ptr": pointers(keys[perm], len(grids) * blocks * groups),
            "back_perm": perm,
        }


def largest_output(g: ConvGeometry) -> int:
    """Largest offset in dy of an entry of backward-data; offsets are counted from the buffer's start, so none is
    negative."""
    return g.filters * g.dy.size + max((offset for _, taps in g.backward_grids for offset in taps.values()), default=0)
