"""Definitions for kept channels and kept filters: a shorter dense convolution, and zeros in removed planes.

`planes` holds the kept planes first, `entries` says how many they are. With kept channels V is [kept, F, kh, kw], with
kept filters [kept, C, kh, kw].
"""

from __future__ import annotations

from collections.abc import Mapping

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from . import convolution as c
from .problem import LayerProblem


def _gather(name: str, layer: LayerProblem, grids, dtypes: Mapping[str, str], back: bool) -> tirx.PrimFunc:
    g = layer.geometry
    sources, source, targets, target = c.source_and_target(g, back)
    reads_kept = (layer.sparse.kind.axis == 1) != back  # kept are the planes read, not those written
    others = targets if reads_kept else sources

    def body() -> None:
        x = c.activation("X", g, sources, source)
        vh, handles = T.arg("V", T.handle()), c.index_handles(dtypes)
        y = c.activation("Y", g, targets, target)
        v, (planes, entries) = c.compact_values(vh, layer), c.index_reads(handles, dtypes)
        for grid, taps in grids:
            with T.grid(g.tiles, targets, grid.rows, grid.cols, g.lanes) as (tile, plane, r, q, lane):
                c.zero(g, y, [tile, plane * target.size + c.pixel(grid, r, q)[1], lane])
            with (
                T.serial(entries(0)) as k,
                T.grid(g.tiles, others, grid.rows, grid.cols, g.lanes) as (tile, other, r, q, lane),
            ):
                read, write = c.pixel(grid, r, q)
                into, out = (planes(k), other) if reads_kept else (other, planes(k))
                for tap, place in taps.items():
                    term = v[k, other * g.taps + tap] * x[tile, into * source.size + place + read, lane]
                    c.add(y, [tile, out * target.size + write, lane], term)

    return c.function(name, body)


def forward(layer: LayerProblem, dtypes: Mapping[str, str]) -> tirx.PrimFunc:
    """Y = conv(X, W). Arguments: X, V [capacity, unit_size], planes, entries, Y."""
    g = layer.geometry
    grids = [(g.forward_grid, {tap: g.tap_offset(tap) for tap in range(g.taps)})]
    return _gather("planes_forward", layer, grids, dtypes, False)


def backward_data(layer: LayerProblem, dtypes: Mapping[str, str]) -> tirx.PrimFunc:
    """dX of the same, once for each parity class. Arguments: dY, V, planes, entries, dX."""
    return _gather("planes_backward_data", layer, layer.geometry.backward_grids, dtypes, True)


def backward_weight(layer: LayerProblem, dtypes: Mapping[str, str]) -> tirx.PrimFunc:
    """dV of the same. Arguments: X, dY, planes, entries, dV [capacity, unit_size], DL (unused)."""
    g, by_channel = layer.geometry, layer.sparse.kind.axis == 1

    def body() -> None:
        x, dy = c.activation("X", g, g.channels, g.x), c.activation("DY", g, g.filters, g.dy)
        handles, vh, lh = c.index_handles(dtypes), T.arg("DV", T.handle()), T.arg("DL", T.handle())
        planes, entries = c.index_reads(handles, dtypes)
        dv = c.compact_values(vh, layer)
        c.workspace(lh, g)
        with T.serial(entries(0)) as k, T.serial(g.filters if by_channel else g.channels) as other:
            channel, filter_ = (planes(k), other) if by_channel else (other, planes(k))
            for tap in range(g.taps):
                out, place = [k, other * g.taps + tap], g.tap_offset(tap)
                c.zero(g, dv, out)
                c.over_batch_and_dy(
                    g,
                    lambda tile, read, at, lane, out=out, place=place: c.add(
                        dv, out,
                        dy[tile, filter_ * g.dy.size + at, lane] * x[tile, channel * g.x.size + place + read, lane],
                    ),
                )  # fmt: skip

    return c.function("planes_backward_weight", body)
