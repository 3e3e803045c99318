"""What all convolutions that gather share on a CPU: register tiles of output pixels, and the loops over them.

For each batch tile, tile of pixels, group of input planes and row of the structure: the row's accumulators stay in
registers, run over the row's entries, and are stored. All lanes share every index, so an irregular weight costs one
scalar load for a whole vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import ConvGeometry, Plane, Subgrid

from .emit import Buffer, Expr, Part, Vec, each, split, tile_shape


@dataclass(frozen=True)
class GatherKnobs:
    """How a gather is computed: pixels a register tile, groups of input planes, and whether the pixel tiles of a row
    of the image run inside the loop over the structure's rows (their slab is then the whole row's)."""

    pixels: int
    groups: int = 1
    pixels_inner: bool = False


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
        """One vector of lanes."""
        return Vec(self.geometry.lanes, self.geometry.dtype)


def _pixels(grid: Subgrid, rows: int, cols: int) -> list[tuple[int, int]]:
    """(input, output) displacements of a register tile's pixels."""
    return [
        (r * grid.in_row + c * grid.in_col, r * grid.out_row + c * grid.out_col)
        for r in range(rows)
        for c in range(cols)
    ]


def register_tile(
    shape: Shape,
    x: Buffer,
    y: Buffer,
    grid: Subgrid,
    tile: Expr,
    at: tuple[Expr, Expr],
    size: tuple[int, int],
    planes: Sequence[Expr],
    first: Expr | None,
    entries: Callable[[Buffer, list[Buffer], list[int]], None],
) -> None:
    """One register tile of the output planes: load or zero, run the entries, store.

    `first` says whether this is the first group (None: the only one).
    """
    vec, pixels = shape.vec, _pixels(grid, *size)
    source = vec.pointer(x, tile, at[0] * grid.in_row + at[1] * grid.in_col + grid.in_base, 0)
    corner = at[0] * grid.out_row + at[1] * grid.out_col + grid.out_base
    targets = [vec.pointer(y, tile, plane * shape.target.size + corner, 0) for plane in planes]
    places = [(target, out) for target in targets for _, out in pixels]
    acc = vec.registers(len(places))

    def zero() -> None:
        for register in acc:
            vec.set(register, vec.const(0))

    if first is None:
        zero()
    else:
        with T.If(first):
            with T.Then():
                zero()
            with T.Else():
                for register, (target, place) in zip(acc, places, strict=True):
                    vec.set(register, vec.load(target, place))
    entries(source, acc, [p for p, _ in pixels])
    for register, (target, place) in zip(acc, places, strict=True):
        vec.store(target, vec.get(register), place)


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


def over_pixels(
    grid: Subgrid, knobs: GatherKnobs, rows: Callable[[Callable[..., None]], None], body: Callable[..., None]
) -> None:
    """Loops over the pixel tiles of a subgrid, with the loops over structure rows outside or inside the columns."""
    tr, tc = tile_shape(grid.rows, grid.cols, knobs.pixels)
    for row_part in split(grid.rows, tr):
        with each(row_part) as r:
            if knobs.pixels_inner:

                def columns(*args: Expr, r: Expr = r, row_part: Part = row_part) -> None:
                    for col_part in split(grid.cols, tc):
                        with each(col_part) as c:
                            body((r, c), (row_part.size, col_part.size), *args)

                rows(columns)
            else:
                for col_part in split(grid.cols, tc):
                    with each(col_part) as c:
                        rows(lambda *args, at=(r, c), size=(row_part.size, col_part.size): body(at, size, *args))
