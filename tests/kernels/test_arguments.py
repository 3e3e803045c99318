"""Index arrays of the kernels: they say the mask, both ways, and lead to no place outside the buffers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mest_compiler.errors import StructureError
from mest_compiler.kernels.arguments import Groups, index_arrays
from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.sparsity.structure import Structure, build

from .strategies import layers

groups = st.integers(1, 6)


def unit_mask(s: Structure) -> np.ndarray:
    """bool [rows, C, taps]: the kept units."""
    rows = s.to_mask().reshape(s.rows, s.block, s.shape[1], s.taps)
    assert (rows == rows[:, :1]).all()
    return rows[:, 0]


def reach(grid) -> tuple[int, int]:
    """Smallest and largest input offset over a grid's pixels, before an entry's own is added."""
    return grid.in_base, grid.in_base + (grid.rows - 1) * grid.in_row + (grid.cols - 1) * grid.in_col


@given(layers(), groups, groups)
@settings(max_examples=60, deadline=None)
def test_forward_arrays_give_the_mask(layer: tuple[ConvGeometry, Structure], forward: int, weight: int) -> None:
    g, s = layer
    arrays = index_arrays(s, g, Groups(forward=forward, backward_weight=weight))
    column_of = {c * g.x.size + g.tap_offset(t): (c, t) for c in range(g.channels) for t in range(g.taps)}
    assert len(column_of) == g.channels * g.taps
    for name, count in (("forward_ptr", forward), ("weight_ptr", weight)):
        found, pointers = np.zeros((s.rows, g.channels, g.taps), int), arrays[name]
        assert pointers.shape == (s.rows * count + 1,) and pointers.dtype == np.int32
        for position, row in enumerate(arrays["row"]):
            for group in range(count):
                at = position * count + group
                for entry in range(pointers[at], pointers[at + 1]):
                    c, t = column_of[int(arrays["offset"][entry])]
                    assert c // -(-g.channels // count) == group
                    found[row, c, t] += 1
        np.testing.assert_array_equal(found, unit_mask(s))
        assert pointers[-1] == s.entries


@given(layers(), groups)
@settings(max_examples=60, deadline=None)
def test_backward_arrays_give_the_mask(layer: tuple[ConvGeometry, Structure], count: int) -> None:
    g, s = layer
    arrays = index_arrays(s, g, Groups(backward_data=count))
    found, pointers = np.zeros((s.rows, g.channels, g.taps), int), arrays["back_ptr"]
    assert pointers.shape == (len(g.backward_grids) * g.channels * count + 1,)
    rows, columns = s.row_of_entry(), s.col
    for number, (_, taps) in enumerate(g.backward_grids):
        for position, channel in enumerate(arrays["back_row"]):
            for group in range(count):
                at = (number * g.channels + position) * count + group
                for k in range(pointers[at], pointers[at + 1]):
                    entry = arrays["back_perm"][k]
                    c, t = divmod(int(columns[entry]), g.taps)
                    row = rows[entry]
                    assert c == channel and t in taps and row // -(-s.rows // count) == group
                    assert arrays["back_offset"][k] == row * s.block * g.dy.size + taps[t]
                    found[row, c, t] += 1
    reached = np.zeros(g.taps, bool)
    reached[[t for _, taps in g.backward_grids for t in taps]] = True
    np.testing.assert_array_equal(found, unit_mask(s) * reached)  # a tap belongs to one class at most


@given(layers(), groups)
@settings(max_examples=60, deadline=None)
def test_no_access_outside_the_buffers(layer: tuple[ConvGeometry, Structure], count: int) -> None:
    g, s = layer
    arrays = index_arrays(s, g, Groups(count, count, count))
    for name in ("offset", "back_offset", "back_perm"):
        assert arrays[name].shape == (s.capacity,) and arrays[name].dtype == np.int32
    low, high = reach(g.forward_grid)
    used = arrays["offset"][: s.entries]
    if s.entries:
        assert used.min() + low >= 0 and used.max() + high < g.channels * g.x.size
    pointers = arrays["back_ptr"].reshape(-1)
    assert (np.diff(pointers) >= 0).all() and pointers[0] >= 0 and pointers[-1] <= s.entries
    assert ((arrays["back_perm"] >= 0) & (arrays["back_perm"] < max(s.entries, 1))).all()
    bounds = pointers[:: g.channels * count]  # of each parity class
    for (grid, _), start, end in zip(g.backward_grids, bounds[:-1], bounds[1:], strict=True):
        low, high = reach(grid)
        # a block's kernel reads the planes of all its filters behind the first one's
        last = (s.block - 1) * g.dy.size
        if start < end:
            part = arrays["back_offset"][start:end]
            assert part.min() + low >= 0 and part.max() + high + last < g.filters * g.dy.size


def geometry(tiles: int = 1, plane: int = 4) -> ConvGeometry:
    """A small 3x3 layer of 3 channels and 4 filters."""
    p = Plane(plane, plane, 1)
    return ConvGeometry(tiles, 8, 3, 4, (3, 3), (1, 1), (1, 1), (1, 1), p, p, p, p)


def test_structure_of_another_layer() -> None:
    with pytest.raises(
        StructureError, match=r"shape \(4, 2, 3, 3\) cannot serve a convolution of shape \(4, 3, 3, 3\)"
    ):
        index_arrays(build(np.ones((4, 2, 3, 3), bool), "unstructured"), geometry(), Groups())


def test_activations_beyond_32_bit_indices() -> None:
    s = build(np.ones((4, 3, 3, 3), bool), "unstructured")
    with pytest.raises(StructureError, match="use a smaller batch"):
        index_arrays(s, geometry(tiles=2000, plane=256), Groups())
    index_arrays(s, geometry(tiles=50, plane=256), Groups())
