"""What all convolutions that gather share on a CPU: register tiles of output pixels, and the loops over them.

For each batch tile, tile of pixels, group of input planes and row of the structure: the row's accumulators stay in
registers, run over the row's entries, and are stored. All lanes share every index, so an irregular weight costs one
scalar load for a whole vector. What may be done besides: batch norm on what is read (see `source`), and its sums of
what is written (see `epilogue`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.fusion import SUMS, Fused
from mest_compiler.kernels.geometry import ConvGeometry, Plane, Subgrid

from ..emit import Buffer, Expr, Part, activation, each, split, tile_shape
from . import ahead
from .emit import Vec
from .epilogue import Finished, taken
from .source import Source, Tile

Rows = Callable[[Callable[..., None], Callable[[Expr], None]], None]
"""rows(inner, begin): the loops over groups of input planes, each of which begins with begin(group), and over rows of
the structure, for each of which inner(...) is called."""
Ask = Callable[[tuple[Expr, Expr], tuple[int, int], Expr, bool], None]
"""ask(corner, size, group, below): asks for what a tile of pixels reads of a group of input planes; below: for what the
tile under it reads besides."""


@dataclass(frozen=True)
class GatherKnobs:
    """How a gather is computed: pixels a register tile, groups of input planes, and whether the pixel tiles of a row
    of the image run inside the loop over the structure's rows (their slab is then the whole row's). Outputs: planes a
    register tile, where the scheme leaves that open."""

    pixels: int
    groups: int = 1
    pixels_inner: bool = False
    outputs: int = 1


@dataclass(frozen=True)
class Shape:
    """What the loops need to know: the planes read and written, how many there are of each, and the pixels written,
    with the kernel's places that reach them: number -> offset in the plane read."""

    geometry: ConvGeometry
    source: Plane
    target: Plane
    sources: int
    targets: int
    grids: Sequence[tuple[Subgrid, Mapping[int, int]]]

    @classmethod
    def forward(cls, g: ConvGeometry) -> Shape:
        """X -> Y."""
        taps = {t: g.tap_offset(t) for t in range(g.taps)}
        return cls(g, g.x, g.y, g.channels, g.filters, [(g.forward_grid, taps)])

    @classmethod
    def backward(cls, g: ConvGeometry) -> Shape:
        """dY -> dX."""
        return cls(g, g.dy, g.dx, g.filters, g.channels, g.backward_grids)

    @property
    def vec(self) -> Vec:
        """One vector of lanes."""
        return Vec(self.geometry.lanes, self.geometry.dtype)


@dataclass(frozen=True)
class Group:
    """Whether a group of input planes is the first one of a row, and whether it is the last."""

    first: Expr
    last: Expr


def group_of(number: Expr, groups: int) -> Group | None:
    """Group `number` of so many; None: the only one."""
    return Group(number == 0, number == groups - 1) if groups > 1 else None


class Input(Source):
    """The planes that a gather reads; made as the first of its arguments."""

    def __init__(self, shape: Shape, fused: Fused) -> None:
        super().__init__(shape.geometry.tiles, shape.sources, shape.source, shape.vec, fused.recompute)


class Output:
    """The planes that a gather writes; made after its other arguments, which those of the epilogue follow, and the
    workspace of its input."""

    def __init__(self, shape: Shape, fused: Fused, source: Input) -> None:
        epilogue = None if fused.epilogue is None else taken(fused.epilogue)
        self.shape, self.epilogue = shape, epilogue
        g, targets = shape.geometry, shape.targets
        self._inputs = epilogue.arguments(g.tiles, targets, shape.vec) if epilogue is not None else ()
        self.buffer = activation("Y", g.tiles, targets, shape.target, shape.vec)
        self._sums = activation("SUMS", g.tiles, targets, SUMS, shape.vec) if epilogue is not None else None
        source.workspace(fused.chunks)

    def begin(self, tile: Expr) -> None:
        """Sets the sums of a batch tile to zero."""
        if self._sums is None:
            return
        vec = self.shape.vec
        target = vec.pointer(self._sums, tile, 0, 0)
        with T.serial(self.shape.targets * SUMS.size) as i:
            vec.store(target, vec.const(0), i)

    def finish(self, finished: Finished) -> None:
        """Stores a register tile of a plane that has all its groups."""
        if self.epilogue is None:
            finished.store()
        else:
            self.epilogue.finish(finished, self._inputs, self.buffer, self._sums)


def register_tile(
    shape: Shape,
    x: Tile,
    y: Output,
    grid: Subgrid,
    tile: Expr,
    at: tuple[Expr, Expr],
    size: tuple[int, int],
    planes: Sequence[Expr],
    group: Group | None,
    entries: Callable[[Buffer, list[Buffer], list[int]], None],
) -> None:
    """One register tile of the output planes: load or zero, run the entries, store.

    `group` says where in the groups of input planes this is (None: there is only one).
    """
    vec, pixels = shape.vec, [(r, c) for r in range(size[0]) for c in range(size[1])]
    source = vec.pointer(*x, at[0] * grid.in_row + at[1] * grid.in_col + grid.in_base, 0)
    corner = at[0] * grid.out_row + at[1] * grid.out_col + grid.out_base
    targets = [vec.pointer(y.buffer, tile, plane * shape.target.size + corner, 0) for plane in planes]
    acc = vec.registers(len(targets) * len(pixels))
    parts = [acc[i : i + len(pixels)] for i in range(0, len(acc), len(pixels))]
    tiles = [
        Finished(vec, shape.target, grid, tile, plane, at, pixels, target, part)
        for plane, target, part in zip(planes, targets, parts, strict=True)
    ]

    def zero() -> None:
        for register in acc:
            vec.set(register, vec.const(0))

    def begin() -> None:
        zero()
        for target in targets:  # what is stored comes into the cache while the entries are worked through
            ahead.ask(vec, target, [r * grid.out_row + c * grid.out_col for r, c in pixels], write=True)

    if group is None:
        begin()
    else:
        with T.If(group.first):
            with T.Then():
                begin()
            with T.Else():
                for one in tiles:
                    one.load()
    entries(source, acc, [r * grid.in_row + c * grid.in_col for r, c in pixels])
    if group is None or y.epilogue is None:
        for one in tiles:
            y.finish(one)
    else:
        with T.If(group.last):
            with T.Then():
                for one in tiles:
                    y.finish(one)
            with T.Else():
                for one in tiles:
                    one.store()


def update(vec: Vec, acc: list[Buffer], source: Buffer, pixels: list[int], values: list[Expr]) -> None:
    """acc += values x source: with one output plane x comes straight from memory, with several it is loaded once."""
    if len(values) == 1:
        value = vec.splat(values[0])
        for register, p in zip(acc, pixels, strict=True):
            vec.fma(register, value, vec.load(source, p))
        return
    loaded = [T.Bind(vec.load(source, p)) for p in pixels]
    for b, scalar in enumerate(values):
        value = vec.splat(scalar)
        for i, x in enumerate(loaded):
            vec.fma(acc[b * len(loaded) + i], value, x)


def reach_of(g: ConvGeometry, planes: int) -> tuple[int, int]:
    """The `reach` of `tile_shape` for register tiles of so many output planes.

    With one plane every update loads a vector of the input, so that all a tile reads has to stay in the first-level
    cache: the kernel's size. With several, pixels that stand side by side are worth more.
    """
    return g.kernel if planes == 1 else (1, 1)


def over_pixels(
    grid: Subgrid,
    knobs: GatherKnobs,
    rows: Rows,
    body: Callable[..., None],
    reach: tuple[int, int] = (1, 1),
    ask: Ask = lambda *_: None,
) -> None:
    """Loops over the pixel tiles of a subgrid, with the loops over structure rows outside or inside the columns; reach:
    see `reach_of`. What a register tile reads of a group is asked for where the rows run over it; where they run over
    a row of the image, what the next row reads is."""
    tr, tc = tile_shape(grid.rows, grid.cols, knobs.pixels, reach)
    for row_part in split(grid.rows, tr):
        with each(row_part) as r:
            if knobs.pixels_inner:

                def columns(*args: Expr, r: Expr = r, row_part: Part = row_part) -> None:
                    for col_part in split(grid.cols, tc):
                        with each(col_part) as c:
                            body((r, c), (row_part.size, col_part.size), *args)

                whole = row_part.size, grid.cols
                rows(columns, lambda q, r=r, whole=whole: ask((r, 0), whole, q, True))
            else:
                for col_part in split(grid.cols, tc):
                    with each(col_part) as c:
                        at, size = (r, c), (row_part.size, col_part.size)
                        rows(
                            lambda *args, at=at, size=size: body(at, size, *args),
                            lambda q, at=at, size=size: ask(at, size, q, False),
                        )


def over_rows(
    shape: Shape,
    x: Input,
    y: Output,
    knobs: GatherKnobs,
    outputs: int,
    row: Callable[[int, Expr, Expr], Sequence[Expr]],
    body: Callable[..., None],
) -> None:
    """The loops of a sparse gather, whose rows make `outputs` planes each: over batch tiles, grids, pixel tiles, groups
    and rows. row(grid's number, group, row): what `body` gets; body(make, grid's number, group, *these): it calls
    make(planes, entries) for each register tile, see `register_tile`."""
    count = shape.targets // outputs

    def one(x_tile: Tile, tile: Expr) -> None:
        y.begin(tile)
        for number, (grid, taps) in enumerate(shape.grids):

            def ask(at, size, group, below, grid=grid, taps=taps) -> None:
                pixels = [r * grid.in_row + c * grid.in_col for r in range(size[0]) for c in range(size[1])]
                reads = {pixel + tap for pixel in pixels for tap in taps.values()}
                corner = at[0] * grid.in_row + at[1] * grid.in_col + grid.in_base
                slab = ahead.Slab(x_tile, shape.source, shape.sources, group, knobs.groups, corner)
                if not below:
                    slab.ask(shape.vec, reads)
                    return
                besides = {offset + size[0] * grid.in_row for offset in reads} - reads
                if size[0] < grid.rows and slab.lasts(shape.vec, reads | besides):
                    with T.If(at[0] + size[0] < grid.rows), T.Then():
                        slab.ask(shape.vec, besides, soon=False)

            def rows(inner: Callable[..., None], begin: Callable[[Expr], None], number: int = number) -> None:
                with T.serial(knobs.groups) as q:
                    begin(q)
                    with T.serial(count) as r:
                        inner(q, *row(number, q, r))

            def at_pixels(at, size, q, *rest, grid=grid, number=number) -> None:
                def make(planes: Sequence[Expr], entries: Callable[..., None]) -> None:
                    group = group_of(q, knobs.groups)
                    register_tile(shape, x_tile, y, grid, tile, at, size, planes, group, entries)

                body(make, number, q, *rest)

            over_pixels(grid, knobs, rows, at_pixels, reach_of(shape.geometry, outputs), ask)

    x.each(one)
