"""Backward-weight convolutions, sparse and dense, for any CPU: dV[e] = sum over pixels of dY[filter(e)] * X[tap(e)].

Threads share out rows of the structure (filters), so nothing is added up between them. Partial sums stay one vector an
entry in a workspace (`DL`); its lanes are summed once, at the end. X and dY are read a band of image rows at a time,
which stays in cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import ConvGeometry

from .emit import Buffer, Expr, Vec, activation, blocks, each, flat, function, split, tile_shape, tree


@dataclass(frozen=True)
class WeightGradientKnobs:
    """How a weight gradient is computed.

    ``entries``: entries whose sums stay in registers together (outer form); ``pixels``: dY pixels held in registers
    (dot form); ``rows``: image rows a band; ``groups``: groups of input channels; ``chunks``: parts that threads share.
    """

    entries: int = 3
    pixels: int = 8
    rows: int = 4
    groups: int = 1
    chunks: int = 2
    chains: int = 2


def _zero(vec: Vec, lanes: Buffer, start: Expr, count: Expr) -> None:
    with T.serial(count) as k:
        T.buffer_store(lanes, vec.const(0), [start + k, vec.ramp()])


def _reduce(vec: Vec, lanes: Buffer, out: Buffer, start: Expr, count: Expr) -> None:
    with T.serial(count) as k:
        T.buffer_store(out, vec.total(lanes[start + k, vec.ramp()]), [start + k])


def _update(
    vec: Vec,
    sources: list[Buffer],
    dy: Buffer,
    dy_plane: int,
    target: Buffer,
    spots: list[list[int]],
    extent: tuple[int, int],
    steps: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    """Sums of len(sources) entries x block filters stay in registers over a band of pixels; spots[i][b] is their place
    behind `target`."""
    places = [spot for entry in spots for spot in entry]
    acc = vec.registers(len(places))
    for register, spot in zip(acc, places, strict=True):
        vec.set(register, vec.load(target, spot))
    (x_row, x_col), (dy_row, dy_col) = steps
    with T.serial(extent[0]) as r, T.serial(extent[1]) as c:
        d = [T.Bind(vec.load(dy, r * dy_row + c * dy_col + b * dy_plane)) for b in range(len(spots[0]))]
        for i, source in enumerate(sources):
            x = T.Bind(vec.load(source, r * x_row + c * x_col))
            for b, value in enumerate(d):
                vec.fma(acc[i * len(d) + b], value, x)
    for register, spot in zip(acc, places, strict=True):
        vec.store(target, vec.get(register), spot)


def _sparse(g: ConvGeometry, block: int, knobs: WeightGradientKnobs, name: str, body: Callable) -> tirx.PrimFunc:
    """Arguments, zeroing, the parallel loop over chunks of rows and the final sum; `body` is called with
    (x, dy, offsets, ptr, order, sums, tile, position range of the chunk)."""
    vec = Vec(g.lanes, g.dtype)
    rows, groups = g.filters // block, knobs.groups
    chunks = min(knobs.chunks, rows)

    def emit() -> None:
        x = activation("X", g.tiles, g.channels, g.x, vec)
        dy = activation("DY", g.tiles, g.filters, g.dy, vec)
        entries, capacity, work = T.int32(), T.int32(), T.int32()
        oh = T.arg("OFF", T.handle())
        ptr = T.arg("PTR", T.buffer((rows * groups + 1,), "int32"))
        order = T.arg("ROW", T.buffer((rows,), "int32"))
        vh, lh = T.arg("DV", T.handle()), T.arg("DL", T.handle())
        offsets = T.match_buffer(oh, (entries,), "int32")
        values = T.match_buffer(vh, (capacity, block), g.dtype)
        sums = T.match_buffer(lh, (work, g.lanes), g.dtype)
        out = T.decl_buffer((capacity * block,), g.dtype, data=values.data)
        with T.parallel(chunks) as chunk:
            first = T.Bind(T.truncdiv(chunk * rows, chunks))
            positions = T.Bind(T.truncdiv((chunk + 1) * rows, chunks) - first)
            start = T.Bind(ptr[first * groups] * block)
            count = T.Bind((ptr[(first + positions) * groups]) * block - start)
            _zero(vec, sums, start, count)
            with T.serial(g.tiles) as tile:
                body(x, dy, offsets, ptr, order, sums, tile, first, positions)
            _reduce(vec, sums, out, start, count)

    return function(name, emit)


def sparse_outer(g: ConvGeometry, block: int, knobs: WeightGradientKnobs) -> tirx.PrimFunc:
    """Outer form: `entries` x `block` sums in registers over a band of pixels.

    Arguments: X, dY, OFF [entries], PTR [rows*groups+1], ROW [rows], dV [capacity, block], DL [capacity*block, L].
    """
    vec, grid = Vec(g.lanes, g.dtype), g.forward_grid
    steps = ((grid.in_row, grid.in_col), (g.dy.cols, 1))

    def body(x, dy, offsets, ptr, order, sums, tile, first, count) -> None:
        for band in split(g.dy.height, knobs.rows):
            with each(band) as h, T.serial(knobs.groups) as q, T.serial(count) as r:
                lo = T.Bind(ptr[(first + r) * knobs.groups + q])
                length = T.Bind(ptr[(first + r) * knobs.groups + q + 1] - lo)
                rounds = T.Bind(T.truncdiv(length, knobs.entries))
                row = T.Bind(order[first + r])
                d = vec.pointer(dy, tile, row * (block * g.dy.size) + h * g.dy.cols + g.dy.at(0, 0), 0)
                source = vec.pointer(x, tile, h * grid.in_row + grid.in_base, 0)

                def some(e: Expr, n: int, d=d, source=source, band=band) -> None:
                    at = [vec.pointer(source, offsets[e + i] * g.lanes) for i in range(n)]
                    spots = [[i * block + b for b in range(block)] for i in range(n)]
                    target = vec.pointer(sums, e * block, 0)
                    _update(vec, at, d, g.dy.size, target, spots, (band.size, g.dy.width), steps)

                with T.serial(rounds) as k:
                    some(lo + k * knobs.entries, knobs.entries)
                with T.serial(length - rounds * knobs.entries) as k:
                    some(lo + rounds * knobs.entries + k, 1)

    return _sparse(g, block, knobs, "backward_weight", body)


def sparse_dots(g: ConvGeometry, block: int, knobs: WeightGradientKnobs) -> tirx.PrimFunc:
    """Dot form, for single weights: a tile of dY stays in registers, an entry is a dot product with X. Arguments as
    `sparse_outer`."""
    if block != 1:
        raise ValueError("the dot form computes single weights")
    vec, grid = Vec(g.lanes, g.dtype), g.forward_grid
    tr, tc = tile_shape(g.dy.height, g.dy.width, knobs.pixels)

    def dots(x, dy, offsets, ptr, order, sums, tile, first, count, h, w, size) -> None:
        pixels = [(r, c) for r in range(size[0]) for c in range(size[1])]
        with T.serial(knobs.groups) as q, T.serial(count) as r:
            lo = T.Bind(ptr[(first + r) * knobs.groups + q])
            hi = T.Bind(ptr[(first + r) * knobs.groups + q + 1])
            at = order[first + r] * g.dy.size + h * g.dy.cols + w + g.dy.at(0, 0)
            d, held = vec.pointer(dy, tile, at, 0), vec.registers(len(pixels))
            for register, (i, j) in zip(held, pixels, strict=True):
                vec.set(register, vec.load(d, i * g.dy.cols + j))
            source = vec.pointer(x, tile, h * grid.in_row + w * grid.in_col + grid.in_base, 0)
            with T.serial(hi - lo) as k:
                p = vec.pointer(source, offsets[lo + k] * g.lanes)
                chains = vec.registers(min(knobs.chains, len(pixels)))
                for i, register in enumerate(chains):
                    vec.set(register, vec.const(0) if i else sums[lo + k, vec.ramp()])
                for i, (register, (a, b)) in enumerate(zip(held, pixels, strict=True)):
                    value = vec.load(p, a * grid.in_row + b * grid.in_col)
                    vec.fma(chains[i % len(chains)], vec.get(register), value)
                T.buffer_store(sums, tree([vec.get(c) for c in chains]), [lo + k, vec.ramp()])

    def body(x, dy, offsets, ptr, order, sums, tile, first, count) -> None:
        for row_part in split(g.dy.height, tr):
            with each(row_part) as h:
                for col_part in split(g.dy.width, tc):
                    with each(col_part) as w:
                        size = (row_part.size, col_part.size)
                        dots(x, dy, offsets, ptr, order, sums, tile, first, count, h, w, size)

    return _sparse(g, 1, knobs, "backward_weight", body)


def dense(g: ConvGeometry, block: int, knobs: WeightGradientKnobs) -> tirx.PrimFunc:
    """dW of a dense convolution, `entries` taps (or channels of a 1x1) x `block` filters of sums in registers.

    Arguments: X, dY, dW, DL [F*columns, L].
    """
    vec, grid = Vec(g.lanes, g.dtype), g.forward_grid
    steps = ((grid.in_row, grid.in_col), (g.dy.cols, 1))
    per_in, columns = g.channels // g.groups, g.columns
    per_out = g.filters // g.groups
    if g.groups > 1:  # a register tile never straddles two convolution groups
        block = max(b for b in range(1, block + 1) if per_out % b == 0)
    bands, tap_parts = split(g.dy.height, knobs.rows), blocks(g.taps, min(knobs.entries, g.taps))
    channel_step = max(1, knobs.entries // g.taps)

    def emit() -> None:
        x = activation("X", g.tiles, g.channels, g.x, vec)
        dy = activation("DY", g.tiles, g.filters, g.dy, vec)
        out = T.arg("DW", T.buffer((g.filters, per_in, *g.kernel), g.dtype))
        sums = T.arg("DL", T.buffer((g.filters * columns, g.lanes), g.dtype))
        out = flat(out)

        def update(tile: Expr, h: Expr, rows: int, row: Expr, size: int, channel: Expr, several: int) -> None:
            conv_group = T.Bind(T.truncdiv(row, per_out)) if g.groups > 1 else 0
            d = vec.pointer(dy, tile, row * g.dy.size + h * g.dy.cols + g.dy.at(0, 0), 0)
            plane = (conv_group * per_in + channel) * g.x.size + h * grid.in_row + grid.in_base
            source = vec.pointer(x, tile, plane, 0)
            target = vec.pointer(sums, row * columns + channel * g.taps, 0)
            for part in tap_parts:
                for start in range(part.start, part.start + part.size * part.count, part.size):
                    wanted = [(c, start + t) for c in range(several) for t in range(part.size)]
                    at = [vec.pointer(source, (c * g.x.size + g.tap_offset(t)) * g.lanes) for c, t in wanted]
                    spots = [[b * columns + c * g.taps + t for b in range(size)] for c, t in wanted]
                    _update(vec, at, d, g.dy.size, target, spots, (rows, g.dy.width), steps)

        whole, rest = divmod(g.filters, block)
        units = whole + bool(rest)
        chunks = min(knobs.chunks, units)

        def row(tile: Expr, h: Expr, rows: int, unit: Expr, size: int) -> None:
            for channels in blocks(per_in, channel_step):
                with each(channels) as c:
                    update(tile, h, rows, unit * block, size, c, channels.size)

        with T.parallel(chunks) as chunk:
            first = T.Bind(T.truncdiv(chunk * units, chunks))
            last = T.Bind(T.truncdiv((chunk + 1) * units, chunks))
            start = T.Bind(first * (block * columns))
            count = T.Bind(T.min(last * block, g.filters) * columns - start)
            _zero(vec, sums, start, count)
            with T.serial(g.tiles) as tile:
                for band in bands:
                    with each(band) as h, T.serial(last - first) as k:
                        unit = T.Bind(first + k)
                        if not rest:
                            row(tile, h, band.size, unit, block)
                            continue
                        with T.If(unit < whole):
                            with T.Then():
                                row(tile, h, band.size, unit, block)
                            with T.Else():
                                row(tile, h, band.size, unit, rest)
            _reduce(vec, sums, out, start, count)

    return function("dense_backward_weight", emit)
