"""Definitions for blocks of m filters by n channels at one kernel place; (1, 1) is unstructured sparsity."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from . import convolution as c
from .problem import LayerProblem


def forward(layer: LayerProblem, groups: int, dtypes: Mapping[str, str]) -> tirx.PrimFunc:
    """Y[f] = sum over its row's entries and their channels of V[e, channel, filter] * X[offset[e] + pixel].

    Arguments: X, V [capacity, n*m], offset, pointers [rows*groups+1], row [rows], Y.
    """
    g, m, n = layer.geometry, layer.sparse.kind.filters, layer.sparse.kind.channels

    def body() -> None:
        x = c.activation("X", g, g.channels, g.x)
        vh, handles = T.arg("V", T.handle()), c.index_handles(dtypes)
        y = c.activation("Y", g, g.filters, g.y)
        v, (offset, ptr, row) = c.compact_values(vh, layer), c.index_reads(handles, dtypes)
        with T.grid(g.tiles, layer.sparse.rows, m, g.y.height, g.y.width, g.lanes) as (tile, i, f, r, q, lane):
            read, write = c.pixel(g.forward_grid, r, q)
            out = [tile, (row(i) * m + f) * g.y.size + write, lane]
            c.zero(g, y, out)
            with T.serial(ptr(i * groups), ptr((i + 1) * groups)) as e, T.serial(n) as channel:
                c.add(y, out, v[e, channel * m + f] * x[tile, offset(e) + channel * g.x.size + read, lane])

    return c.function("block_forward", body)


def backward_data(layer: LayerProblem, groups: int, dtypes: Mapping[str, str]) -> tirx.PrimFunc:
    """dX[c] = sum over the entries of its block of channels and their filters of V[perm[e]] * dY[offset[e] + pixel],
    once for each parity class.

    Arguments: dY, V [capacity, n*m], offset, pointers [classes*C/n*groups+1], perm, dX.
    """
    g, m, n = layer.geometry, layer.sparse.kind.filters, layer.sparse.kind.channels
    rows = g.channels // n

    def body() -> None:
        dy = c.activation("DY", g, g.filters, g.dy)
        vh, handles = T.arg("V", T.handle()), c.index_handles(dtypes)
        dx = c.activation("DX", g, g.channels, g.dx)
        v, (offset, ptr, perm) = c.compact_values(vh, layer), c.index_reads(handles, dtypes)
        for number, (grid, _) in enumerate(g.backward_grids):
            with T.grid(g.tiles, rows, n, grid.rows, grid.cols, g.lanes) as (tile, i, channel, r, q, lane):
                read, write = c.pixel(grid, r, q)
                out, run = [tile, (i * n + channel) * g.dx.size + write, lane], (i + number * rows) * groups
                c.zero(g, dx, out)
                with T.serial(ptr(run), ptr(run + groups)) as e, T.serial(m) as f:
                    c.add(dx, out, v[perm(e), channel * m + f] * dy[tile, offset(e) + f * g.dy.size + read, lane])

    return c.function("block_backward_data", body)


def backward_weight(layer: LayerProblem, groups: int, dtypes: Mapping[str, str]) -> tirx.PrimFunc:
    """dV[e, channel, filter] = sum over batch and pixels of dY[filter] * X[offset[e] + channel + pixel].

    Arguments: X, dY, offset, pointers [rows*groups+1], row [rows], entries, dV [capacity, n*m], DL (unused).
    """
    g, m, n = layer.geometry, layer.sparse.kind.filters, layer.sparse.kind.channels

    def body() -> None:
        x, dy = c.activation("X", g, g.channels, g.x), c.activation("DY", g, g.filters, g.dy)
        handles, vh, lh = c.index_handles(dtypes), T.arg("DV", T.handle()), T.arg("DL", T.handle())
        offset, ptr, row, _ = c.index_reads(handles, dtypes)
        dv = c.compact_values(vh, layer)
        c.workspace(lh, g)
        with (
            T.serial(layer.sparse.rows) as i,
            T.serial(ptr(i * groups), ptr((i + 1) * groups)) as e,
            T.grid(n, m) as (k, f),
        ):
            out = [e, k * m + f]
            c.zero(g, dv, out)
            c.over_batch_and_dy(
                g,
                lambda tile, read, at, lane: c.add(
                    dv, out,
                    dy[tile, (row(i) * m + f) * g.dy.size + at, lane] * x[tile, offset(e) + k * g.x.size + read, lane],
                ),
            )  # fmt: skip

    return c.function("block_backward_weight", body)
