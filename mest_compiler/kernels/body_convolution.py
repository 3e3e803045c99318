"""Definitions for entries that run straight-line bodies: patterns, and the kept places of a kernel's row."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from . import convolution as c
from .bodies import Bodies
from .problem import LayerProblem


def _gather(
    name: str, layer: LayerProblem, grids, groups: int, dtypes: Mapping[str, str], back: bool
) -> tirx.PrimFunc:  # fmt: skip
    g, unit = layer.geometry, layer.sparse.unit_size
    sources, source, targets, target = c.source_and_target(g, back)

    def body() -> None:
        x = c.activation("X", g, sources, source)
        vh, handles = T.arg("V", T.handle()), c.index_handles(dtypes)
        y = c.activation("Y", g, targets, target)
        v, (offset, ptr, first, *row) = c.compact_values(vh, layer), c.index_reads(handles, dtypes)
        for grid, bodies in grids:
            with T.grid(g.tiles, targets, grid.rows, grid.cols, g.lanes) as (tile, i, r, q, lane):
                read, write = c.pixel(grid, r, q)
                out = [tile, (row[0](i) if row else i) * target.size + write, lane]
                c.zero(g, y, out)
                for number, one in enumerate(bodies):
                    with T.serial(groups) as group:
                        run = (i * groups + group) * len(bodies) + number
                        with T.serial(ptr(run), ptr(run + 1)) as e:
                            for k, place in one.terms:
                                value = first(e) + k
                                weight = v[T.truncdiv(value, unit), T.truncmod(value, unit)]
                                c.add(y, out, weight * x[tile, offset(e) + place + read, lane])

    return c.function(name, body)


def forward(layer: LayerProblem, bodies: Bodies, groups: int, dtypes: Mapping[str, str]) -> tirx.PrimFunc:
    """Y[f] = sum over its entries and their places k of V[first[e] + k] * X[offset[e] + place + pixel].

    Arguments: X, V [capacity, unit_size], offset, pointers [F*groups*bodies+1], first (in flat V), row [F], Y.
    """
    grids = [(layer.geometry.forward_grid, bodies.forward)]
    return _gather("body_forward", layer, grids, groups, dtypes, False)


def backward_data(layer: LayerProblem, bodies: Bodies, groups: int, dtypes: Mapping[str, str]) -> tirx.PrimFunc:
    """dX[c] likewise of dY, once for each parity class, through the same entries by channel.

    Arguments: dY, V, offset, pointers [C*groups*bodies+1], first, dX.
    """
    return _gather("body_backward_data", layer, bodies.backward, groups, dtypes, True)


def backward_weight(layer: LayerProblem, bodies: Bodies, groups: int, dtypes: Mapping[str, str]) -> tirx.PrimFunc:
    """dV[first[e] + k] = sum over batch and pixels of dY[f] * X[offset[e] + place + pixel].

    Arguments: X, dY, offset, pointers [F*groups*bodies+1], first, row, entries, dV [capacity, unit_size], DL (unused).
    """
    g, unit = layer.geometry, layer.sparse.unit_size

    def body() -> None:
        x, dy = c.activation("X", g, g.channels, g.x), c.activation("DY", g, g.filters, g.dy)
        handles, vh, lh = c.index_handles(dtypes), T.arg("DV", T.handle()), T.arg("DL", T.handle())
        offset, ptr, first, row, _ = c.index_reads(handles, dtypes)
        dv = c.compact_values(vh, layer)
        c.workspace(lh, g)
        for number, one in enumerate(bodies.forward):
            with T.grid(g.filters, groups) as (i, group):
                run = (i * groups + group) * len(bodies.forward) + number
                with T.serial(ptr(run), ptr(run + 1)) as e:
                    for k, place in one.terms:
                        value = first(e) + k
                        out = [T.truncdiv(value, unit), T.truncmod(value, unit)]
                        c.zero(g, dv, out)
                        c.over_batch_and_dy(
                            g,
                            lambda tile, read, at, lane, i=i, e=e, out=out, place=place: c.add(
                                dv, out,
                                dy[tile, row(i) * g.dy.size + at, lane] * x[tile, offset(e) + place + read, lane],
                            ),
                        )  # fmt: skip

    return c.function("body_backward_weight", body)
