"""Convolutions that gather: forward, and backward-data on the transposed structure, sparse and dense, for any CPU.

For each batch tile, tile of pixels, group of input planes and row of the structure: the row's accumulators stay in
registers, run over the row's entries, and are stored. All lanes share every index, so an irregular weight costs one
scalar load for a whole vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import ConvGeometry, Plane, Subgrid

from .emit import Buffer, Expr, Part, Vec, activation, blocks, each, flat, function, split, tile_shape


@dataclass(frozen=True)
class GatherKnobs:
    """How a gather is computed: pixels a register tile, groups of input planes, and whether the pixel tiles of a row
    of the image run inside the loop over the structure's rows (their slab is then the whole row's)."""

    pixels: int
    groups: int = 1
    pixels_inner: bool = False


@dataclass(frozen=True)
class _Shape:
    """What the loops need to know: planes read and written, and how many of each a row of the structure handles."""

    geometry: ConvGeometry
    source: Plane
    target: Plane
    sources: int
    targets: int

    @property
    def vec(self) -> Vec:
        return Vec(self.geometry.lanes, self.geometry.dtype)


def _pixels(grid: Subgrid, rows: int, cols: int) -> list[tuple[int, int]]:
    """(input, output) displacements of a register tile's pixels."""
    return [
        (r * grid.in_row + c * grid.in_col, r * grid.out_row + c * grid.out_col)
        for r in range(rows)
        for c in range(cols)
    ]


def _tile(
    shape: _Shape,
    x: Buffer,
    y: Buffer,
    grid: Subgrid,
    tile: Expr,
    at: tuple[Expr, Expr],
    size: tuple[int, int],
    row: Expr,
    block: int,
    group: Expr | None,
    entries: Callable[[Buffer, list[Buffer], list[int]], None],
) -> None:
    """One register tile of `block` output planes: load or zero, run the entries, store."""
    vec, pixels = shape.vec, _pixels(grid, *size)
    source = vec.pointer(x, tile, at[0] * grid.in_row + at[1] * grid.in_col + grid.in_base, 0)
    first = row * shape.target.size + at[0] * grid.out_row + at[1] * grid.out_col + grid.out_base
    target = vec.pointer(y, tile, first, 0)
    places = [b * shape.target.size + out for b in range(block) for _, out in pixels]
    acc = vec.registers(len(places))
    if group is None:
        for register in acc:
            vec.set(register, vec.const(0))
    else:
        with T.If(group == 0):
            with T.Then():
                for register in acc:
                    vec.set(register, vec.const(0))
            with T.Else():
                for register, place in zip(acc, places, strict=True):
                    vec.set(register, vec.load(target, place))
    entries(source, acc, [p for p, _ in pixels])
    for register, place in zip(acc, places, strict=True):
        vec.store(target, vec.get(register), place)


def _update(vec: Vec, acc: list[Buffer], source: Buffer, pixels: list[int], values: list[Expr]) -> None:
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


def _over_pixels(
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


def _sparse(
    name: str,
    shape: _Shape,
    grids: list[Subgrid],
    rows: int,
    block_out: int,
    block_in: int,
    permuted: bool,
    knobs: GatherKnobs,
) -> tirx.PrimFunc:
    g, vec, block = shape.geometry, shape.vec, block_out * block_in

    def emit() -> None:
        x = activation("X", g.tiles, shape.sources, shape.source, vec)
        size, entries = T.int32(), T.int32()
        vh, oh = T.arg("V", T.handle()), T.arg("OFF", T.handle())
        ptr = T.arg("PTR", T.buffer((len(grids) * rows * knobs.groups + 1,), "int32"))
        order = T.arg("ROW", T.buffer((rows,), "int32"))
        ph = T.arg("PERM", T.handle()) if permuted else None
        y = activation("Y", g.tiles, shape.targets, shape.target, vec)
        values = T.match_buffer(vh, (size, block), g.dtype)
        offsets = T.match_buffer(oh, (entries,), "int32")
        perm = T.match_buffer(ph, (entries,), "int32") if permuted else None

        def run(source: Buffer, acc: list[Buffer], pixels: list[int], lo: Expr, hi: Expr) -> None:
            with T.serial(hi - lo) as k:
                at = vec.pointer(source, offsets[lo + k] * g.lanes)
                entry = T.Bind(perm[lo + k]) if perm is not None else lo + k
                for i in range(block_in):
                    moved = [p + i * shape.source.size for p in pixels]
                    scalars = [values[entry, i * block_out + b] for b in range(block_out)]
                    _update(vec, acc, at, moved, scalars)

        with T.parallel(g.tiles) as tile:
            for number, grid in enumerate(grids):

                def over_rows(inner: Callable, number: int = number) -> None:
                    with T.serial(knobs.groups) as q, T.serial(rows) as r:
                        lo = T.Bind(ptr[(number * rows + r) * knobs.groups + q])
                        hi = T.Bind(ptr[(number * rows + r) * knobs.groups + q + 1])
                        inner(q, T.Bind(order[r]), lo, hi)

                def body(at, size, q, row, lo, hi, grid=grid) -> None:
                    _tile(
                        shape, x, y, grid, tile, at, size, row * block_out, block_out, q if knobs.groups > 1 else None,
                        lambda source, acc, pixels: run(source, acc, pixels, lo, hi),
                    )  # fmt: skip

                _over_pixels(grid, knobs, over_rows, body)

    return function(name, emit)


def sparse_forward(g: ConvGeometry, block: int, knobs: GatherKnobs) -> tirx.PrimFunc:
    """Y[f] = sum over entries V[e] * X[OFF[e] + pixel]; a row is `block` filters.

    Arguments: X, V [capacity, block], OFF [entries], PTR [rows*groups+1], ROW [rows], Y; activations are
    [tiles, planes * rows * cols, L].
    """
    shape = _Shape(g, g.x, g.y, g.channels, g.filters)
    return _sparse("forward", shape, [g.forward_grid], g.filters // block, block, 1, False, knobs)


def sparse_backward_data(g: ConvGeometry, block: int, knobs: GatherKnobs) -> tirx.PrimFunc:
    """dX[c] = sum over entries V[PERM[e]] * dY[OFF[e] + pixel], a row is a channel, once for each parity class.

    Arguments: dY, V, OFF, PTR [classes*C*groups+1], ROW [C], PERM [entries], dX.
    """
    shape = _Shape(g, g.dy, g.dx, g.filters, g.channels)
    grids = [grid for grid, _ in g.backward_grids]
    return _sparse("backward_data", shape, grids, g.channels, 1, block, True, knobs)


def _dense(
    name: str,
    shape: _Shape,
    grids: list[tuple[Subgrid, dict[int, int]]],
    block: int,
    weight_strides: tuple[int, int],
    knobs: GatherKnobs,
) -> tirx.PrimFunc:
    """`weight_strides`: elements of W between output planes and between input planes of a convolution group."""
    g, vec = shape.geometry, shape.vec
    per_out, per_in = shape.targets // g.groups, shape.sources // g.groups
    out_stride, in_stride = weight_strides
    weight_group = g.filters // g.groups * g.columns  # elements of W of a convolution group
    chunk = -(-per_in // knobs.groups)

    def emit() -> None:
        x = activation("X", g.tiles, shape.sources, shape.source, vec)
        w = T.arg("W", T.buffer((g.filters, g.channels // g.groups, *g.kernel), g.dtype))
        y = activation("Y", g.tiles, shape.targets, shape.target, vec)
        w = flat(w)

        def run(source, acc, pixels, taps, row, size, conv_group, planes: Part, start) -> None:
            base = conv_group * weight_group + row * out_stride
            with T.serial(planes.size) as c:
                plane = start + c
                at = vec.pointer(source, (conv_group * per_in + plane) * (shape.source.size * g.lanes))
                weight = vec.pointer(w, base + plane * in_stride)
                for tap, offset in taps.items():
                    scalars = [weight[b * out_stride + tap] for b in range(size)]
                    _update(vec, acc, at, [p + offset for p in pixels], scalars)

        with T.parallel(g.tiles) as tile:
            for grid, taps in grids:

                def over_rows(inner: Callable) -> None:
                    with T.serial(g.groups) as conv_group:
                        for planes in blocks(per_in, chunk):
                            with each(planes) as start:
                                for part in blocks(per_out, block):
                                    with each(part) as row:
                                        inner(planes, start, part.size, row, conv_group)

                def body(at, size, planes, start, count, row, conv_group, grid=grid, taps=taps) -> None:
                    _tile(
                        shape, x, y, grid, tile, at, size, conv_group * per_out + row, count,
                        start if chunk < per_in else None,
                        lambda source, acc, pixels: run(
                            source, acc, pixels, taps, row, count, conv_group, planes, start
                        ),
                    )  # fmt: skip

                _over_pixels(grid, knobs, over_rows, body)

    return function(name, emit)


def dense_forward(g: ConvGeometry, block: int, knobs: GatherKnobs) -> tirx.PrimFunc:
    """Y = conv(X, W) with W as PyTorch stores it; register tiles of `block` filters. Arguments: X, W, Y."""
    shape = _Shape(g, g.x, g.y, g.channels, g.filters)
    taps = {t: g.tap_offset(t) for t in range(g.taps)}
    return _dense("dense_forward", shape, [(g.forward_grid, taps)], block, (g.columns, g.taps), knobs)


def dense_backward_data(g: ConvGeometry, block: int, knobs: GatherKnobs) -> tirx.PrimFunc:
    """dX of the same convolution; register tiles of `block` channels. Arguments: dY, W, dX."""
    shape = _Shape(g, g.dy, g.dx, g.filters, g.channels)
    return _dense("dense_backward_data", shape, list(g.backward_grids), block, (g.taps, g.columns), knobs)
