"""Operators that move data without computing: views, expand, slices, padding, and the gradient of a slice."""

import operator

import torch
from tvm import relax, te, tirx
from tvm.relax import op as R

from .. import ops
from ..emission import Emission, Value, shape_of
from .registry import converts

aten = torch.ops.aten


@converts(operator.getitem)
def getitem(emission: Emission, values: tuple[Value, ...], index: int) -> Value:
    return values[index]


@converts(
    aten.view.default,
    aten._unsafe_view.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
def view(emission: Emission, x: relax.Expr, *size: object) -> relax.Expr:
    return emission.reshape(x, emission.result_shape())


@converts(aten.expand.default)
def expand(emission: Emission, x: relax.Expr, size: list[int]) -> relax.Expr:
    old, new = shape_of(x), emission.result_shape()
    if old == new:
        return x
    if len(old) == 4 and old == [*new[:2], 1, 1]:
        return emission.emit(ops.spatial_broadcast(emission.reshape(x, old[:2]), oshape=new))
    return emission.emit(R.broadcast_to(x, new))


@converts(aten.slice.Tensor)
def slice_axis(
    emission: Emission,
    x: relax.Expr,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> relax.Expr:
    dim %= len(shape_of(x))
    extent = shape_of(x)[dim]
    start, end, step = slice(start, end, step).indices(extent)
    if (start, end, step) == (0, extent, 1):
        return x
    return emission.emit(R.strided_slice(x, [dim], [start], [end], [step]))


@converts(aten.slice_backward.default)
def slice_backward(
    emission: Emission, gy: relax.Expr, sizes: list[int], dim: int, start: int, end: int, step: int
) -> relax.Expr:
    dim %= len(sizes)
    start, end, step = slice(start, end, step).indices(sizes[dim])
    if step == 1:
        return _pad(emission, gy, {dim: (start, sizes[dim] - end)}, 0)

    def define(gy: te.Tensor) -> te.Tensor:
        def value(*index: tirx.Var) -> tirx.Expr:
            offset = index[dim] - start
            taken = tirx.all(offset >= 0, index[dim] < end, tirx.floormod(offset, step) == 0)
            source = (*index[:dim], tirx.floordiv(offset, step), *index[dim + 1 :])
            return tirx.if_then_else(taken, gy[source], tirx.const(0, gy.dtype))

        return te.compute([int(n) for n in sizes], value, "slice_backward")

    return emission.emit_te(define, gy)


@converts(aten.constant_pad_nd.default)
def constant_pad(emission: Emission, x: relax.Expr, pad: list[int], value: float = 0) -> relax.Expr:
    """`pad` holds (before, after) from the last axis on; a negative number cuts off (so does the gradient of
    padding).
    """
    last = len(shape_of(x)) - 1
    widths = {last - k: (pad[2 * k], pad[2 * k + 1]) for k in range(len(pad) // 2)}
    return _pad(emission, x, widths, value)


def _pad(emission: Emission, x: relax.Expr, widths: dict[int, tuple[int, int]], value: float) -> relax.Expr:
    shape = shape_of(x)
    cut = {axis: (max(-before, 0), max(-after, 0)) for axis, (before, after) in widths.items()}
    cut = {axis: both for axis, both in cut.items() if any(both)}
    if cut:
        begin = [before for before, _ in cut.values()]
        end = [shape[axis] - after for axis, (_, after) in cut.items()]
        x = emission.emit(R.strided_slice(x, list(cut), begin, end, [1] * len(cut)))
    grow = {axis: (max(before, 0), max(after, 0)) for axis, (before, after) in widths.items()}
    if any(any(both) for both in grow.values()):
        flat = [n for axis in range(len(shape)) for n in grow.get(axis, (0, 0))]
        x = emission.emit(R.nn.pad(x, flat, "constant", value))
    return x


@converts(aten.cat.default)
def concatenate(emission: Emission, parts: list[relax.Expr], dim: int = 0) -> relax.Expr:
    rank = len(emission.result_shape())
    return emission.emit(R.concat([part for part in parts if shape_of(part) != [0]], axis=dim % rank))
