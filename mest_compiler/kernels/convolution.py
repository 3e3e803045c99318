"""Definitions of the sparse convolution kernels: what is computed, for any device, in plain loops.

They are the reference that generators are tested against and the tasks that tuning is about. Arguments are the
generators' own, in the same order; see `arguments` for the index arrays. A definition knows nothing of a device.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .geometry import ConvGeometry, Plane, Subgrid


def _function(name: str, body: Callable[[], None]) -> tirx.PrimFunc:
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"global_symbol": name})
        body()
    return builder.get()


def _activation(name: str, g: ConvGeometry, planes: int, plane: Plane) -> tirx.Buffer:
    return T.arg(name, T.buffer((g.tiles, planes * plane.size, g.lanes), g.dtype))


def _pixel(grid: Subgrid, r: tirx.Var, q: tirx.Var) -> tuple[tirx.Expr, tirx.Expr]:
    """(input, output) offsets of a pixel of a subgrid."""
    read = r * grid.in_row + q * grid.in_col + grid.in_base
    return read, r * grid.out_row + q * grid.out_col + grid.out_base


def sparse_forward(g: ConvGeometry, block: int, groups: int) -> tirx.PrimFunc:
    """Y[f] = sum over the row's entries of V[e] * X[OFF[e] + pixel]. Arguments: X, V, OFF, PTR, ROW, Y."""
    rows = g.filters // block

    def body() -> None:
        x = _activation("X", g, g.channels, g.x)
        capacity, entries = T.int32(), T.int32()
        vh, oh = T.arg("V", T.handle()), T.arg("OFF", T.handle())
        ptr = T.arg("PTR", T.buffer((rows * groups + 1,), "int32"))
        order = T.arg("ROW", T.buffer((rows,), "int32"))
        y = _activation("Y", g, g.filters, g.y)
        v, off = T.match_buffer(vh, (capacity, block), g.dtype), T.match_buffer(oh, (entries,), "int32")
        with T.grid(g.tiles, rows, block, g.y.height, g.y.width, g.lanes) as (n, i, b, r, q, lane):
            read, write = _pixel(g.forward_grid, r, q)
            out = (order[i] * block + b) * g.y.size + write
            T.buffer_store(y, tirx.const(0, g.dtype), [n, out, lane])
            with T.serial(ptr[i * groups], ptr[(i + 1) * groups]) as e:
                T.buffer_store(y, y[n, out, lane] + v[e, b] * x[n, off[e] + read, lane], [n, out, lane])

    return _function("sparse_forward", body)


def sparse_backward_data(g: ConvGeometry, block: int, groups: int) -> tirx.PrimFunc:
    """dX[c] = sum over the channel's entries of V[PERM[e]] * dY[OFF[e] + pixel], once for each parity class.

    Arguments: dY, V, OFF, PTR, ROW, PERM, dX.
    """
    grids = [grid for grid, _ in g.backward_grids]

    def body() -> None:
        dy = _activation("X", g, g.filters, g.dy)
        capacity, entries = T.int32(), T.int32()
        vh, oh = T.arg("V", T.handle()), T.arg("OFF", T.handle())
        ptr = T.arg("PTR", T.buffer((len(grids) * g.channels * groups + 1,), "int32"))
        order = T.arg("ROW", T.buffer((g.channels,), "int32"))
        ph = T.arg("PERM", T.handle())
        dx = _activation("Y", g, g.channels, g.dx)
        v, off = T.match_buffer(vh, (capacity, block), g.dtype), T.match_buffer(oh, (entries,), "int32")
        perm = T.match_buffer(ph, (entries,), "int32")
        for number, grid in enumerate(grids):
            with T.grid(g.tiles, g.channels, grid.rows, grid.cols, g.lanes) as (n, c, r, q, lane):
                read, write = _pixel(grid, r, q)
                out, first = order[c] * g.dx.size + write, (c + number * g.channels) * groups
                T.buffer_store(dx, tirx.const(0, g.dtype), [n, out, lane])
                with T.serial(ptr[first], ptr[first + groups]) as e, T.serial(block) as b:
                    term = v[perm[e], b] * dy[n, off[e] + b * g.dy.size + read, lane]
                    T.buffer_store(dx, dx[n, out, lane] + term, [n, out, lane])

    return _function("sparse_backward_data", body)


def sparse_backward_weight(g: ConvGeometry, block: int, groups: int) -> tirx.PrimFunc:
    """dV[e] = sum over batch and pixels of dY[filter(e)] * X[OFF[e] + pixel].

    Arguments: X, dY, OFF, PTR, ROW, dV, DL (a workspace that generators use; left alone here).
    """
    rows = g.filters // block

    def body() -> None:
        x, dy = _activation("X", g, g.channels, g.x), _activation("DY", g, g.filters, g.dy)
        entries, capacity, work = T.int32(), T.int32(), T.int32()
        oh = T.arg("OFF", T.handle())
        ptr = T.arg("PTR", T.buffer((rows * groups + 1,), "int32"))
        order = T.arg("ROW", T.buffer((rows,), "int32"))
        vh, lh = T.arg("DV", T.handle()), T.arg("DL", T.handle())
        off = T.match_buffer(oh, (entries,), "int32")
        dv = T.match_buffer(vh, (capacity, block), g.dtype)
        T.match_buffer(lh, (work, g.lanes), g.dtype)
        with T.serial(rows) as i, T.serial(ptr[i * groups], ptr[(i + 1) * groups]) as e, T.serial(block) as b:
            T.buffer_store(dv, tirx.const(0, g.dtype), [e, b])
            with T.grid(g.tiles, g.dy.height, g.dy.width, g.lanes) as (n, r, q, lane):
                read, _ = _pixel(g.forward_grid, r, q)
                out = (order[i] * block + b) * g.dy.size + g.dy.at(0, 0) + r * g.dy.cols + q
                T.buffer_store(dv, dv[e, b] + dy[n, out, lane] * x[n, off[e] + read, lane], [e, b])

    return _function("sparse_backward_weight", body)
