"""Index arrays of one layer's three kernels, worked out from its structure and its geometry.

A structure says which weights are kept; a kernel wants to know where in memory their inputs stand. That depends on the
planes and borders, so it is derived here, at run time, whenever a structure is swapped in: nothing is recompiled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mest_compiler.errors import StructureError
from mest_compiler.sparsity.structure import Structure
from mest_compiler.sparsity.structure_checks import INT32_MAX

from .geometry import ConvGeometry

# Index arrays of each sparse kernel in argument order; they stand between its inputs and its outputs.
ARGUMENTS = {
    "forward": ("offset", "forward_ptr", "row"),
    "backward_data": ("back_offset", "back_ptr", "back_row", "back_perm"),
    "backward_weight": ("offset", "weight_ptr", "row"),
}


@dataclass(frozen=True)
class Groups:
    """Groups of input planes that each of the three kernels was built with."""

    forward: int = 1
    backward_data: int = 1
    backward_weight: int = 1


def index_arrays(structure: Structure, geometry: ConvGeometry, groups: Groups) -> dict[str, np.ndarray]:
    """int32 arrays, named as the kernels' run-time inputs.

    ``offset`` [capacity], ``row`` [rows], ``forward_ptr`` [rows*groups+1], ``weight_ptr`` likewise;
    ``back_offset`` [capacity], ``back_perm`` [capacity], ``back_row`` [C], ``back_ptr`` [classes*C*groups+1].

    Raises:
        StructureError: the structure is not of this geometry, or does not pass its own validation.
    """
    expected = (geometry.filters, geometry.channels, *geometry.kernel)
    if structure.shape != expected:
        raise StructureError(f"A structure of shape {structure.shape} cannot serve a convolution of shape {expected}.")
    structure.validate()
    largest = geometry.tiles * max(geometry.channels * geometry.x.size, geometry.filters * geometry.dy.size)
    if largest * geometry.lanes > INT32_MAX:
        raise StructureError(
            f"The activations of a convolution of shape {expected} have {largest * geometry.lanes} elements, more than "
            "32-bit indices can reach: use a smaller batch."
        )
    entries = structure.entries
    col = structure.col[:entries].astype(np.int64)
    channel, tap = np.divmod(col, geometry.taps)
    taps = np.array([geometry.tap_offset(t) for t in range(geometry.taps)], np.int64)
    offset = np.zeros(structure.capacity, np.int32)
    offset[:entries] = channel * geometry.x.size + taps[tap]
    return {
        "offset": offset,
        "row": structure.order,
        "forward_ptr": structure.group_pointers(groups.forward),
        "weight_ptr": structure.group_pointers(groups.backward_weight),
        **_transposed(structure, geometry, groups.backward_data, channel, tap),
    }


def _transposed(
    structure: Structure, geometry: ConvGeometry, groups: int, channel: np.ndarray, tap: np.ndarray
) -> dict[str, np.ndarray]:
    """Entries by (parity class of the tap, channel, group of rows, row): what backward-data gathers."""
    row = structure.row_of_entry().astype(np.int64)
    rows, channels = len(structure.order), geometry.channels
    grids = geometry.backward_grids
    class_of, shift = np.full(geometry.taps, -1, np.int64), np.zeros(geometry.taps, np.int64)
    for number, (_, taps) in enumerate(grids):
        for t, offset in taps.items():
            class_of[t], shift[t] = number, offset
    # A tap that reaches no pixel of dX (a plane smaller than the kernel) has no class and no entry here.
    by_channel = structure.transpose().perm[: structure.entries]
    used = by_channel[class_of[tap[by_channel]] >= 0]
    group = row // -(-rows // groups)
    key = (class_of[tap] * channels + channel) * groups + group
    perm = used[np.argsort(key[used], kind="stable")]
    counts = np.bincount(key[perm], minlength=len(grids) * channels * groups)
    back_offset, back_perm = np.zeros(structure.capacity, np.int32), np.zeros(structure.capacity, np.int32)
    back_offset[: len(perm)] = row[perm] * structure.block * geometry.dy.size + shift[tap[perm]]
    back_perm[: len(perm)] = perm
    return {
        "back_offset": back_offset,
        "back_perm": back_perm,
        "back_row": np.arange(channels, dtype=np.int32),
        "back_ptr": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
    }
