"""What all backward-weight convolutions share on a CPU: dV[e] = sum over pixels of dY[filter(e)] * X[place(e)].

Threads share out rows of the structure (filters), so nothing is added up between them. Partial sums stay one vector a
value in a workspace (`DL`); its lanes are summed once, at the end. X and dY are read a band of image rows at a time,
which stays in cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Buffer, Expr, Index, Indices, activation, each, function, split, tile_shape
from .ahead import Slab, ask
from .emit import Vec, flat_any, shared
from .source import Source, Tile


@dataclass(frozen=True)
class WeightGradientKnobs:
    """How a weight gradient is computed.

    ``entries``: entries whose sums stay in registers together (outer form); ``pixels``: dY pixels held in registers
    (dot form); ``rows``: image rows a band; ``groups``: groups of input channels; ``chunks``: parts that threads share;
    ``chains``: sums that a value is made up of, so that one update need not wait for the last (dot form); ``filters``:
    of a register tile, where the scheme leaves that open (outer form).
    """

    entries: int = 3
    pixels: int = 8
    rows: int = 4
    groups: int = 1
    chunks: int = 2
    chains: int = 2
    filters: int = 1


def zero(vec: Vec, lanes: Buffer, start: Expr, count: Expr) -> None:
    """Zero `count` vectors of partial sums."""
    with T.serial(count) as k:
        T.buffer_store(lanes, vec.const(0), [start + k, vec.ramp()])


def reduce(vec: Vec, lanes: Buffer, out: Buffer, start: Expr, count: Expr) -> None:
    """Sum the lanes of `count` vectors."""
    with T.serial(count) as k:
        T.buffer_store(out, vec.total(lanes[start + k, vec.ramp()]), [start + k])


def outer_products(
    vec: Vec,
    sources: list[Buffer],
    dys: list[Buffer],
    target: Buffer,
    spots: list[list[Expr]],
    extent: tuple[int, int],
    steps: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    """Sums of len(sources) planes x len(dys) filters stay in registers over a band of pixels; spots[i][b] is their
    place behind `target`."""
    places = [spot for entry in spots for spot in entry]
    acc = vec.registers(len(places))
    for register, spot in zip(acc, places, strict=True):
        vec.set(register, vec.load(target, spot))
    (x_row, x_col), (dy_row, dy_col) = steps
    with T.serial(extent[0]) as r, T.serial(extent[1]) as c:
        d = [T.Bind(vec.load(dy, r * dy_row + c * dy_col)) for dy in dys]
        for i, source in enumerate(sources):
            x = T.Bind(vec.load(source, r * x_row + c * x_col))
            for b, value in enumerate(d):
                vec.fma(acc[i * len(d) + b], value, x)
    for register, spot in zip(acc, places, strict=True):
        vec.store(target, vec.get(register), spot)


def neighbours(vec: Vec, first: Buffer, count: int, plane: int) -> list[Buffer]:
    """Pointers to the same place in `count` neighbouring planes of `plane` pixels."""
    return [first, *(vec.pointer(first, b * plane * vec.lanes) for b in range(1, count))]


def band_steps(g: ConvGeometry) -> tuple[tuple[int, int], tuple[int, int]]:
    """(rows, columns) steps of x and of dy from pixel to pixel, for `outer_products`."""
    return (g.forward_grid.in_row, g.forward_grid.in_col), (g.dy.cols, 1)


@dataclass(frozen=True)
class Operands:
    """What the body of a sparse weight gradient reads and adds to: x and batch tile `tile` of dy."""

    x: Tile
    dy: Buffer
    tile: Expr
    indices: list[Index]
    sums: Buffer


def sparse(
    layer: LayerProblem, chunks: int, dtypes: dict[str, str], name: str, rows: Callable[[list[Index]], Expr],
    body: Callable[[Operands, Expr, Expr], None], recompute: Normalisation | None,
) -> tirx.PrimFunc:  # fmt: skip
    """The frame of every sparse weight gradient: `body` is called with (operands, first, count) for a share of the
    `rows(index arrays)` rows of the structure, a batch tile at a time. The last index array is `entries`.

    Arguments: X (or what `Source` has instead), dY, index arrays, dV [capacity, unit_size],
    DL [capacity * unit_size, L] and, with `recompute`, a workspace (see `Source`).
    """
    g = layer.geometry
    vec = Vec(g.lanes, g.dtype)

    def emit() -> None:
        source = Source(g.tiles, g.channels, g.x, vec, recompute)
        dy = activation("DY", g.tiles, g.filters, g.dy, vec)
        indices = Indices(dtypes)
        vh, lh = T.arg("DV", T.handle()), T.arg("DL", T.handle())
        source.workspace(chunks)
        *arrays, entries = indices.match()
        sums = T.match_buffer(lh, (T.int32(), g.lanes), g.dtype)
        out = flat_any(vh, layer.sparse.unit_size, g.dtype)
        total = T.Bind(entries[0] * layer.sparse.unit_size)
        shared(total, chunks, lambda first, count, _: zero(vec, sums, first, count))

        def share(first: Expr, count: Expr, chunk: Expr) -> None:
            with T.serial(g.tiles) as tile:
                body(Operands(source.at(tile, chunk), dy, tile, [*arrays, entries], sums), first, count)

        shared(rows([*arrays, entries]), chunks, share)
        shared(total, chunks, lambda first, count, _: reduce(vec, sums, out, first, count))

    return function(name, emit)


def over_dy_tiles(g: ConvGeometry, pixels: int, body: Callable[[Expr, Expr, list[tuple[int, int]]], None]) -> None:
    """body(row, column, displacements of the pixels) for register tiles of dY."""
    tr, tc = tile_shape(g.dy.height, g.dy.width, pixels, g.kernel)
    for row_part in split(g.dy.height, tr):
        with each(row_part) as h:
            for col_part in split(g.dy.width, tc):
                with each(col_part) as w:
                    body(h, w, [(r, c) for r in range(row_part.size) for c in range(col_part.size)])


@dataclass(frozen=True)
class Held:
    """A tile of dY in registers: group of input channels and row of the structure it is for, where X begins for it, and
    the offsets of its pixels there."""

    group: Expr
    row: Expr
    dy: list[Buffer]
    source: Buffer
    pixels: list[int]


def over_held(
    g: ConvGeometry, knobs: WeightGradientKnobs, o: Operands, filters: Index, start: Expr, count: Expr,
    body: Callable[[Held], None],
) -> None:  # fmt: skip
    """body(a tile of dY) for all of them, of each group of input channels and `count` rows of the structure, from
    `start` on; a row is one filter, which `filters` gives. What the next ones read is asked for meanwhile."""
    vec, grid = Vec(g.lanes, g.dtype), g.forward_grid
    taps = [g.tap_offset(t) for t in range(g.taps)]

    def tile(h: Expr, w: Expr, pixels: list[tuple[int, int]]) -> None:
        moved = [a * grid.in_row + b * grid.in_col for a, b in pixels]
        at = [a * g.dy.cols + b for a, b in pixels]
        corner = h * grid.in_row + w * grid.in_col + grid.in_base
        reads = {pixel + tap for pixel in moved for tap in taps}

        def dy_of(row: Expr) -> Buffer:
            return vec.pointer(o.dy, o.tile, filters[row] * g.dy.size + h * g.dy.cols + w + g.dy.at(0, 0), 0)

        with T.serial(knobs.groups) as q:
            Slab(o.x, g.x, g.channels, q, knobs.groups, corner).ask(vec, reads)
            with T.serial(count) as r:
                d, registers = dy_of(start + r), vec.registers(len(pixels))
                for register, pixel in zip(registers, at, strict=True):
                    vec.set(register, vec.load(d, pixel))
                ask(vec, dy_of(start + tirx.min(r + 1, count - 1)), at)
                body(Held(q, start + r, registers, vec.pointer(*o.x, corner, 0), moved))

    over_dy_tiles(g, knobs.pixels, tile)
