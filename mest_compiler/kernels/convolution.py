"""Definitions of the sparse convolution kernels, one family a file: what is computed, for any device, in plain loops.

They are the reference that generators are tested against and the tasks that tuning is about. Arguments are the
generators' own, in the same order. A definition knows nothing of a device. This file is what the families share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .geometry import ConvGeometry, Plane, Subgrid
from .problem import LayerProblem

Expr = Any  # a tirx.PrimExpr or a Python number
Read = Callable[[Expr], Expr]
"""An index array: element -> its value as int32, whatever narrower type it is stored in."""


def function(name: str, body: Callable[[], None]) -> tirx.PrimFunc:
    """A PrimFunc whose arguments and body are appended by `body`."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"global_symbol": name})
        body()
    return builder.get()


def activation(name: str, g: ConvGeometry, planes: int, plane: Plane) -> tirx.Buffer:
    """Argument [tiles, planes * pixels, L]."""
    return T.arg(name, T.buffer((g.tiles, planes * plane.size, g.lanes), g.dtype))


def source_and_target(g: ConvGeometry, back: bool) -> tuple[int, Plane, int, Plane]:
    """(planes read, one of them, planes written, one of them) of forward, or of backward-data."""
    return (g.filters, g.dy, g.channels, g.dx) if back else (g.channels, g.x, g.filters, g.y)


def index_handles(dtypes: Mapping[str, str]) -> dict[str, tirx.Var]:
    """The index arrays' arguments, in order; `index_reads` binds them when all arguments are there."""
    return {name: T.arg(name, T.handle()) for name in dtypes}


def index_reads(handles: Mapping[str, tirx.Var], dtypes: Mapping[str, str]) -> list[Read]:
    """How each index array is read; they may have any length."""
    buffers = [T.match_buffer(handles[name], (T.int32(),), dtype) for name, dtype in dtypes.items()]
    return [lambda i, buffer=buffer: T.Cast("int32", buffer[i]) for buffer in buffers]


def compact_values(handle: tirx.Var, layer: LayerProblem) -> tirx.Buffer:
    """Argument [capacity, unit_size]; the capacity is known at run time only."""
    return T.match_buffer(handle, (T.int32(), layer.sparse.unit_size), layer.geometry.dtype)


def workspace(handle: tirx.Var, g: ConvGeometry) -> None:
    """Argument [capacity * unit_size, L] that generators use; a definition leaves it alone."""
    T.match_buffer(handle, (T.int32(), g.lanes), g.dtype)


def pixel(grid: Subgrid, row: Expr, col: Expr) -> tuple[Expr, Expr]:
    """(input, output) offsets of a pixel of a subgrid."""
    read = row * grid.in_row + col * grid.in_col + grid.in_base
    return read, row * grid.out_row + col * grid.out_col + grid.out_base


def zero(g: ConvGeometry, buffer: tirx.Buffer, index: list[Expr]) -> None:
    """One element becomes 0."""
    T.buffer_store(buffer, tirx.const(0, g.dtype), index)


def add(buffer: tirx.Buffer, index: list[Expr], term: Expr) -> None:
    """One element grows by a term."""
    T.buffer_store(buffer, buffer[tuple(index)] + term, index)


def over_batch_and_dy(g: ConvGeometry, body: Callable[[Expr, Expr, Expr, Expr], None]) -> None:
    """body(tile, offset in x of the first place, offset in dy's plane, lane) for every pixel of dy."""
    with T.grid(g.tiles, g.dy.height, g.dy.width, g.lanes) as (n, r, q, lane):
        body(n, pixel(g.forward_grid, r, q)[0], r * g.dy.cols + q + g.dy.at(0, 0), lane)
