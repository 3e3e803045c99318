"""What all convolutions that gather share on OpenCL: who computes what, and the register tiles of output pixels.

A work-item holds a quad of lanes of a register tile of pixels, of one row of the structure; its accumulators stay in
registers over all of the row's entries. L/4 consecutive items hold a pixel's lanes, then come other tiles of pixels
and last other rows, so that items that run in step read one index and one weight. The classes of pixels of a strided
backward-data share one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import ConvGeometry, Plane, Subgrid

from ..emit import Buffer, Expr, activation
from .emit import Vec, cell, launch
from .planes import when

INT32 = 1 << 31


@dataclass(frozen=True)
class GatherKnobs:
    """How a gather is computed.

    rows, cols: most pixels of a register tile. tiles, parts: tiles of pixels and rows of the structure a work-group.
    rows_first: whether neighbouring work-groups compute the same pixels of other rows, and not other pixels.
    unroll: entries (dense: input planes) a turn of the innermost loop, a power of two. outputs: output planes of a
    work-item, where the kernel is free to choose (blocks are not: see `block_gather`).
    """

    rows: int = 1
    cols: int = 8
    tiles: int = 8
    parts: int = 1
    rows_first: bool = False
    unroll: int = 1
    outputs: int = 4

    groups: ClassVar[int] = 1
    """Accumulators stay in registers over all input planes: grouping those gains nothing."""


@dataclass(frozen=True)
class Shape:
    """What the loops need to know: the planes read and written, and how many there are of each."""

    geometry: ConvGeometry
    source: Plane
    target: Plane
    sources: int
    targets: int

    @classmethod
    def forward(cls, g: ConvGeometry) -> Shape:
        """X -> Y."""
        return cls(g, g.x, g.y, g.channels, g.filters)

    @classmethod
    def backward(cls, g: ConvGeometry) -> Shape:
        """dY -> dX."""
        return cls(g, g.dy, g.dx, g.filters, g.channels)

    @property
    def vec(self) -> Vec:
        """One pixel's lanes."""
        return Vec(self.geometry.lanes, self.geometry.dtype)

    def input(self) -> Buffer:
        """The planes that a gather reads; made as the first of its arguments."""
        return activation("X", self.geometry.tiles, self.sources, self.source, self.vec)

    def output(self) -> Buffer:
        """The planes that a gather writes; made as the last of its arguments."""
        return activation("Y", self.geometry.tiles, self.targets, self.target, self.vec)


@dataclass(frozen=True)
class Tiling:
    """Register tiles of `rows` x `cols` pixels that cover a grid; the last of a row or column of them overlap others,
    and compute the same numbers again, so that all are whole."""

    grid: Subgrid
    rows: int
    cols: int

    @classmethod
    def of(cls, grid: Subgrid, knobs: GatherKnobs) -> Tiling:
        """As few and as small as can be with at most the knobs' rows and columns."""
        return cls(grid, even(grid.rows, knobs.rows), even(grid.cols, knobs.cols))

    @property
    def across(self) -> int:
        """Tiles side by side."""
        return -(-self.grid.cols // self.cols)

    @property
    def count(self) -> int:
        """All tiles."""
        return self.across * -(-self.grid.rows // self.rows)

    @property
    def pixels(self) -> list[tuple[int, int]]:
        """(row, column) of the pixels within a tile."""
        return [(r, c) for r in range(self.rows) for c in range(self.cols)]

    def corner(self, number: Expr) -> tuple[Expr, Expr]:
        """(row, column) of a tile's first pixel."""
        down = cell(quotient(number, self.across, self.count))[0]
        row, col = down * self.rows, (number - down * self.across) * self.cols
        if self.grid.rows % self.rows:
            row = T.min(row, self.grid.rows - self.rows)
        if self.grid.cols % self.cols:
            col = T.min(col, self.grid.cols - self.cols)
        return row, col


@dataclass(frozen=True)
class Item:
    """What a work-item computes: a register tile of grid number `number`, of row `row` of the structure.

    source, target: private numbers: where in X and Y its first pixel of plane 0 stands, in quads. reads, writes: the
    pixels, in pixels from there.
    """

    vec: Vec
    number: int
    row: Expr
    source: Buffer
    target: Buffer
    reads: list[int]
    writes: list[int]

    def zeros(self, planes: int) -> list[Buffer]:
        """Accumulators of so many output planes, plane by plane."""
        acc = self.vec.registers(planes * len(self.reads))
        for register in acc:
            self.vec.set(register, self.vec.const(0))
        return acc

    def at(self, offset: Expr) -> Buffer:
        """Where its first pixel stands in the source, `offset` pixels further: a private number of quads."""
        return cell(self.source[0] + offset * self.vec.quads)

    def load(self, x: Buffer, at: Buffer, pixel: int) -> Expr:
        """A quad `pixel` pixels from a place."""
        return self.vec.load(x, at[0] + pixel * self.vec.quads)

    def store(self, y: Buffer, plane: Expr, values: Sequence[Expr], size: int) -> None:
        """Writes its pixels of an output plane, planes having `size` pixels."""
        first = cell(self.target[0] + plane * (size * self.vec.quads))
        for value, pixel in zip(values, self.writes, strict=True):
            self.vec.store(y, value, first[0] + pixel * self.vec.quads)


def even(extent: int, most: int) -> int:
    """The smallest tiles of which as few cover an extent as of tiles of `most`."""
    return -(-extent // -(-extent // most))


def quotient(number: Expr, divisor: int, count: int) -> Expr:
    """number // divisor for a number in 0..count-1, by a multiplication: GPUs divide slowly."""
    if divisor >= count:
        return T.int32(0)
    for shift in range(31):
        factor = -(-(1 << shift) // divisor)
        if (factor * divisor - (1 << shift)) * (count - 1) < 1 << shift and factor * (count - 1) < INT32:
            return T.shift_right(number * factor, T.int32(shift)) if shift else number * factor
    return T.floordiv(number, divisor)


def row_and_part(number: Expr, parts: int, count: int) -> tuple[Expr, Expr]:
    """(number // parts, the remainder) of a number in 0..count-1."""
    if parts == 1:
        return number, T.int32(0)
    row = cell(quotient(number, parts, count))[0]
    return row, number - row * parts


def over_items(
    shape: Shape, grids: Sequence[Subgrid], rows: int, knobs: GatherKnobs, body: Callable[[Item], None]
) -> None:
    """Launches the items of all grids, rows of the structure and batch tiles."""
    vec, tilings = shape.vec, [Tiling.of(grid, knobs) for grid in grids]
    tiles, parts = min(knobs.tiles, max(t.count for t in tilings)), min(knobs.parts, rows)
    ends, row_groups = [], -(-rows // parts)
    for tiling in tilings:
        ends.append((ends[-1] if ends else 0) + -(-tiling.count // tiles))
    pixel_axis = 1 if knobs.rows_first else 0
    blocks = [row_groups] * 3
    blocks[pixel_axis], blocks[2] = ends[-1], shape.geometry.tiles

    with launch(blocks, (vec.quads, tiles, parts)) as (group, (lane, tile, part)):

        def one(number: int) -> None:
            tiling, first = tilings[number], ends[number - 1] if number else 0
            place, row = (group[pixel_axis] - first) * tiles + tile, group[1 - pixel_axis] * parts + part
            guards = [place < tiling.count] if tiling.count % tiles else []
            guards += [row < rows] if rows % parts else []
            with when(*guards):
                body(_item(shape, tiling, number, cell(place)[0], row, lane, group[2]))

        def choose(number: int) -> None:
            if number == len(grids) - 1:
                one(number)
                return
            with T.If(group[pixel_axis] < ends[number]):
                with T.Then():
                    one(number)
                with T.Else():
                    choose(number + 1)

        choose(0)


def _item(shape: Shape, tiling: Tiling, number: int, place: Expr, row: Expr, lane: Expr, tile: Expr) -> Item:
    grid, quads = tiling.grid, shape.vec.quads
    r, c = tiling.corner(place)
    source = tile * (shape.sources * shape.source.size) + r * grid.in_row + c * grid.in_col + grid.in_base
    target = tile * (shape.targets * shape.target.size) + r * grid.out_row + c * grid.out_col + grid.out_base
    return Item(
        shape.vec, number, row, cell(source * quads + lane), cell(target * quads + lane),
        [r * grid.in_row + c * grid.in_col for r, c in tiling.pixels],
        [r * grid.out_row + c * grid.out_col for r, c in tiling.pixels],
    )  # fmt: skip


def turns(low: Expr, high: Expr, unroll: int, body: Callable[[Expr], None]) -> None:
    """body(i) for low <= i < high, `unroll` a turn."""
    if unroll > 1:
        whole = cell(T.floordiv(high - low, unroll))[0]
        with T.serial(whole) as i:
            for j in range(unroll):
                body(low + i * unroll + j)
        low = T.Bind(low + whole * unroll)
    with T.serial(high - low) as i:
        body(low + i)
