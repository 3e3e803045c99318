"""Index arrays read one by one, as plainly as can be: which weight stands behind every term that a kernel adds up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import NamedTuple

import numpy as np

from mest_compiler.kernels.bodies import Bodies, pattern_bodies, row_bodies
from mest_compiler.kernels.geometry import ConvGeometry, Plane, Subgrid
from mest_compiler.kernels.problem import LayerProblem

Arrays = Mapping[str, np.ndarray]


class Term(NamedTuple):
    """Where in the flat compact values a term has its weight, and which weight that has to be."""

    value: int
    filter: int
    channel: int
    row: int
    col: int


def _pixel(address: int, plane: Plane, planes: int, grid: Subgrid) -> tuple[int, int, int]:
    """(plane, row, column) of the first pixel that a term reads; fails unless all it reads is inside that plane."""
    last = address + (grid.rows - 1) * grid.in_row + (grid.cols - 1) * grid.in_col
    assert 0 <= address <= last < planes * plane.size
    number, pixel = divmod(address, plane.size)
    assert last < (number + 1) * plane.size  # nor in the next plane
    row, col = divmod(pixel, plane.cols)
    return number, row - plane.border, col - plane.border


def _tap(g: ConvGeometry, distance: tuple[int, int]) -> tuple[int, int]:
    """Row and column in the kernel of the place that is so far from the kernel's first."""
    found = [divmod(d, dilation) for d, dilation in zip(distance, g.dilation, strict=True)]
    assert all(rest == 0 and 0 <= tap < size for (tap, rest), size in zip(found, g.kernel, strict=True))
    return found[0][0], found[1][0]


def input_of(g: ConvGeometry, address: int) -> tuple[int, int, int]:
    """(channel, kernel row, kernel column) that the first output pixel reads x[address] through."""
    channel, row, col = _pixel(address, g.x, g.channels, g.forward_grid)
    return channel, *_tap(g, (row + g.padding[0], col + g.padding[1]))


def output_of(g: ConvGeometry, address: int, number: int) -> tuple[int, int, int]:
    """(filter, kernel row, kernel column) through which the first pixel of a parity class of dx reads dy[address]."""
    parities = list(product(*(range(min(g.stride[a], (g.dx.height, g.dx.width)[a])) for a in (0, 1))))
    filter_, row, col = _pixel(address, g.dy, g.filters, g.backward_grids[number][0])
    back = [p + pad - at * s for p, pad, at, s in zip(parities[number], g.padding, (row, col), g.stride, strict=True)]
    return filter_, *_tap(g, (back[0], back[1]))


def _run(pointers: np.ndarray, index: int) -> range:
    return range(int(pointers[index]), int(pointers[index + 1]))


def of_planes(plane: int, total: int, groups: int) -> int:
    """Group of a plane: runs of equally many, the last may be shorter."""
    return plane // -(-total // groups)


def block_by_filter(layer: LayerProblem, arrays: Arrays, groups: int, pointer: str) -> Iterator[Term]:
    """Forward and backward-weight of blocks."""
    g, kind = layer.geometry, layer.sparse.kind
    assert len(arrays[pointer]) == layer.sparse.rows * groups + 1
    for position, group in product(range(layer.sparse.rows), range(groups)):
        for e in _run(arrays[pointer], position * groups + group):
            for c, f in product(range(kind.channels), range(kind.filters)):
                address = g.forward_grid.in_base + int(arrays["offset"][e]) + c * g.x.size
                filter_ = int(arrays["row"][position]) * kind.filters + f
                term = Term(e * layer.sparse.unit_size + c * kind.filters + f, filter_, *input_of(g, address))
                assert of_planes(term.channel - c, g.channels, groups) == group
                yield term


def block_by_channel(layer: LayerProblem, arrays: Arrays, groups: int) -> Iterator[Term]:
    """Backward-data of blocks."""
    g, kind = layer.geometry, layer.sparse.kind
    blocks = g.channels // kind.channels
    assert len(arrays["back_ptr"]) == len(g.backward_grids) * blocks * groups + 1
    for number, block, group in product(range(len(g.backward_grids)), range(blocks), range(groups)):
        for k in _run(arrays["back_ptr"], (number * blocks + block) * groups + group):
            for c, f in product(range(kind.channels), range(kind.filters)):
                value = int(arrays["back_perm"][k]) * layer.sparse.unit_size + c * kind.filters + f
                address = int(arrays["back_offset"][k]) + f * g.dy.size
                filter_, row, col = output_of(g, address, number)
                assert of_planes(filter_ - f, g.filters, groups) == group
                yield Term(value, filter_, block * kind.channels + c, row, col)


def _bodies(layer: LayerProblem, prefix: str) -> Bodies:
    return (pattern_bodies if prefix == "pattern" else row_bodies)(layer.geometry)


def bodies_by_filter(layer: LayerProblem, arrays: Arrays, groups: int, name: str) -> Iterator[Term]:
    """Forward and backward-weight of patterns and rows of places; `name` is what the arrays' names start with."""
    g, bodies = layer.geometry, _bodies(layer, name.split("_")[0]).forward
    assert len(arrays[f"{name}_ptr"]) == g.filters * groups * len(bodies) + 1
    for position, group, number in product(range(g.filters), range(groups), range(len(bodies))):
        for e in _run(arrays[f"{name}_ptr"], (position * groups + group) * len(bodies) + number):
            for k, place in bodies[number].terms:
                address = g.forward_grid.in_base + int(arrays[f"{name}_offset"][e]) + place
                value = int(arrays[f"{name}_first"][e]) + k
                term = Term(value, int(arrays["row"][position]), *input_of(g, address))
                assert of_planes(term.channel, g.channels, groups) == group
                yield term


def bodies_by_channel(layer: LayerProblem, arrays: Arrays, groups: int, name: str) -> Iterator[Term]:
    """Backward-data of the same: one set of entries for all parity classes."""
    g, classes = layer.geometry, _bodies(layer, name.split("_")[0]).backward
    for number, (grid, bodies) in enumerate(classes):
        assert grid == g.backward_grids[number][0]
        assert len(arrays[f"{name}_ptr"]) == g.channels * groups * len(bodies) + 1
        for channel, group, body in product(range(g.channels), range(groups), range(len(bodies))):
            for e in _run(arrays[f"{name}_ptr"], (channel * groups + group) * len(bodies) + body):
                for k, place in bodies[body].terms:
                    filter_, row, col = output_of(g, int(arrays[f"{name}_offset"][e]) + place, number)
                    assert of_planes(filter_, g.filters, groups) == group
                    yield Term(int(arrays[f"{name}_first"][e]) + k, filter_, channel, row, col)


def kept_planes(layer: LayerProblem, arrays: Arrays) -> Iterator[Term]:
    """Any direction of kept channels or filters."""
    g, by_channel = layer.geometry, layer.sparse.kind.axis == 1
    for k in range(int(arrays["entries"][0])):
        plane, others = int(arrays["planes"][k]), g.filters if by_channel else g.channels
        for other, tap in product(range(others), range(g.taps)):
            filter_, channel = (other, plane) if by_channel else (plane, other)
            yield Term((k * others + other) * g.taps + tap, filter_, channel, *divmod(tap, g.kernel[1]))


def places(layer: LayerProblem, arrays: Arrays) -> Iterator[Term]:
    """Any direction of a dense kernel with zeros kept."""
    for value in range(int(arrays["entries"][0]) * layer.sparse.unit_size):
        yield Term(value, *(int(i) for i in np.unravel_index(int(arrays["place"][value]), layer.sparse.shape)))


def read(layer: LayerProblem, arrays: Arrays, direction: str, family: str, groups: int) -> list[Term]:
    """All terms of a kernel."""
    if family == "planes":
        return list(kept_planes(layer, arrays))
    if family == "zeros":
        return list(places(layer, arrays))
    if family == "block":
        if direction == "backward_data":
            return list(block_by_channel(layer, arrays, groups))
        pointer = {"forward": "forward_ptr", "backward_weight": "weight_ptr"}[direction]
        return list(block_by_filter(layer, arrays, groups, pointer))
    if direction == "backward_data":
        return list(bodies_by_channel(layer, arrays, groups, f"{family}_back"))
    return list(bodies_by_filter(layer, arrays, groups, family + "_weight" * (direction == "backward_weight")))
