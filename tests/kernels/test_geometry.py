"""Planes, borders and subgrids of a convolution: what the kernels read is inside the buffers, and is what is meant."""

import numpy as np
import pytest
from hypothesis import given, settings

from mest_compiler.kernels.geometry import ConvGeometry, Plane, Subgrid

from .strategies import geometries


def inputs_of(grid: Subgrid, offset: int) -> np.ndarray:
    """[rows, cols] offsets that a tap reads, for each output pixel of the grid."""
    r, c = np.mgrid[: grid.rows, : grid.cols]
    return grid.in_base + r * grid.in_row + c * grid.in_col + offset


def place(plane: Plane, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) relative to the first pixel inside the border."""
    row, col = np.divmod(offset, plane.cols)
    return row - plane.border, col - plane.border


@given(geometries())
@settings(deadline=None)
def test_forward_reads_the_pixel_it_means(g: ConvGeometry) -> None:
    grid = g.forward_grid
    oh, ow = np.mgrid[: grid.rows, : grid.cols]
    for tap in range(g.taps):
        i, j = divmod(tap, g.kernel[1])
        offset = inputs_of(grid, g.tap_offset(tap))
        assert offset.min() >= 0 and offset.max() < g.x.size
        row, col = place(g.x, offset)
        np.testing.assert_array_equal(row, oh * g.stride[0] - g.padding[0] + i * g.dilation[0])
        np.testing.assert_array_equal(col, ow * g.stride[1] - g.padding[1] + j * g.dilation[1])


@given(geometries())
@settings(deadline=None)
def test_backward_data_reads_the_pixels_that_read_it(g: ConvGeometry) -> None:
    written = np.zeros(g.dx.size, int)
    pairs = set()  # (tap, dx pixel, dy pixel) through which a gradient flows
    for grid, taps in g.backward_grids:
        r, c = np.mgrid[: grid.rows, : grid.cols]
        out = grid.out_base + r * grid.out_row + c * grid.out_col
        np.add.at(written, out, 1)
        for tap, shift in taps.items():
            offset = inputs_of(grid, shift)
            assert offset.min() >= 0 and offset.max() < g.dy.size
            row, col = place(g.dy, offset)
            inside = (row >= 0) & (row < g.dy.height) & (col >= 0) & (col < g.dy.width)
            pairs |= {(tap, *p) for p in zip(out[inside], row[inside], col[inside], strict=True)}
    assert (written == 1).all()
    oh, ow = np.mgrid[: g.y.height, : g.y.width]
    wanted = set()
    for tap in range(g.taps):
        i, j = divmod(tap, g.kernel[1])
        row, col = (
            oh * g.stride[0] - g.padding[0] + i * g.dilation[0],
            ow * g.stride[1] - g.padding[1] + j * g.dilation[1],
        )
        inside = (row >= 0) & (row < g.dx.height) & (col >= 0) & (col < g.dx.width)
        out = row * g.dx.width + col
        wanted |= {(tap, *p) for p in zip(out[inside], oh[inside], ow[inside], strict=True)}
    assert pairs == wanted


@pytest.mark.parametrize(("border", "row", "col", "offset"), [(0, 0, 0, 0), (0, 1, 2, 7), (2, -2, -2, 0), (1, 0, 0, 8)])
def test_offsets_of_pixels(border: int, row: int, col: int, offset: int) -> None:
    assert Plane(4, 5, border).at(row, col) == offset
