"""Backward-weight of dense convolutions, grouped and depthwise ones among them, for any CPU."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.normalisation import Normalisation

from ..emit import Buffer, Expr, activation, blocks, each, function, split
from .emit import Vec, flat
from .source import Source
from .weight_gradient import WeightGradientKnobs, band_steps, neighbours, outer_products, reduce, zero


def dense(
    g: ConvGeometry, block: int, knobs: WeightGradientKnobs, recompute: Normalisation | None = None
) -> tirx.PrimFunc:
    """dW of a dense convolution, `entries` taps (or channels of a 1x1) x `block` filters of sums in registers.

    Arguments: X (or what `Source` has instead), dY, dW, DL [F*columns, L] and, with `recompute`, a workspace.
    """
    vec, grid = Vec(g.lanes, g.dtype), g.forward_grid
    steps = band_steps(g)
    per_in, columns = g.channels // g.groups, g.columns
    per_out = g.filters // g.groups
    if g.groups > 1:  # a register tile never straddles two convolution groups
        block = max(b for b in range(1, block + 1) if per_out % b == 0)
    bands, tap_parts = split(g.dy.height, knobs.rows), blocks(g.taps, min(knobs.entries, g.taps))
    channel_step = max(1, knobs.entries // g.taps)

    def emit() -> None:
        source = Source(g.tiles, g.channels, g.x, vec, recompute)
        dy = activation("DY", g.tiles, g.filters, g.dy, vec)
        out = T.arg("DW", T.buffer((g.filters, per_in, *g.kernel), g.dtype))
        sums = T.arg("DL", T.buffer((g.filters * columns, g.lanes), g.dtype))
        source.workspace(knobs.chunks)
        out = flat(out)

        def update(
            x: tuple[Buffer, Expr], tile: Expr, h: Expr, rows: int, row: Expr, size: int, channel: Expr, several: int
        ) -> None:
            conv_group = T.Bind(T.truncdiv(row, per_out)) if g.groups > 1 else 0
            d = vec.pointer(dy, tile, row * g.dy.size + h * g.dy.cols + g.dy.at(0, 0), 0)
            dys = neighbours(vec, d, size, g.dy.size)
            plane = (conv_group * per_in + channel) * g.x.size + h * grid.in_row + grid.in_base
            first = vec.pointer(*x, plane, 0)
            target = vec.pointer(sums, row * columns + channel * g.taps, 0)
            for part in tap_parts:
                for start in range(part.start, part.start + part.size * part.count, part.size):
                    wanted = [(c, start + t) for c in range(several) for t in range(part.size)]
                    at = [vec.pointer(first, (c * g.x.size + g.tap_offset(t)) * g.lanes) for c, t in wanted]
                    spots = [[b * columns + c * g.taps + t for b in range(size)] for c, t in wanted]
                    outer_products(vec, at, dys, target, spots, (rows, g.dy.width), steps)

        whole, rest = divmod(g.filters, block)
        units = whole + bool(rest)
        chunks = min(knobs.chunks, units)

        def row(x: tuple[Buffer, Expr], tile: Expr, h: Expr, rows: int, unit: Expr, size: int) -> None:
            for channels in blocks(per_in, channel_step):
                with each(channels) as c:
                    update(x, tile, h, rows, unit * block, size, c, channels.size)

        with T.parallel(chunks) as chunk:
            first = T.Bind(T.truncdiv(chunk * units, chunks))
            last = T.Bind(T.truncdiv((chunk + 1) * units, chunks))
            start = T.Bind(first * (block * columns))
            count = T.Bind(T.min(last * block, g.filters) * columns - start)
            zero(vec, sums, start, count)
            with T.serial(g.tiles) as tile:
                x = source.at(tile, chunk)
                for band in bands:
                    with each(band) as h, T.serial(last - first) as k:
                        unit = T.Bind(first + k)
                        if not rest:
                            row(x, tile, h, band.size, unit, block)
                            continue
                        with T.If(unit < whole):
                            with T.Then():
                                row(x, tile, h, band.size, unit, block)
                            with T.Else():
                                row(x, tile, h, band.size, unit, rest)
            reduce(vec, sums, out, start, count)

    return function("dense_backward_weight", emit)
