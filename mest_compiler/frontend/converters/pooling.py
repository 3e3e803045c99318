"""Max-pooling, and average pooling over the whole plane, with their gradients."""

import torch
from tvm import relax
from tvm.relax import op as R

from .. import ops
from ..emission import Emission, Value, WindowIndex, elements, pair, shape_of
from .registry import converts

aten = torch.ops.aten


@converts(aten.max_pool2d_with_indices.default)
def max_pool2d(
    emission: Emission,
    x: relax.Expr,
    kernel: list[int],
    stride: list[int] = (),
    padding: list[int] = (0,),
    dilation: list[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[relax.Expr, WindowIndex]:
    window = _window(emission, x, kernel, stride, padding, dilation, ceil_mode)
    y, positions = emission.emit_tuple(ops.max_pool2d(x, oshape=emission.result_shape(), **window), 2)
    return y, WindowIndex(positions)


@converts(aten.max_pool2d_with_indices_backward.default)
def max_pool2d_backward(
    emission: Emission,
    gy: relax.Expr,
    x: relax.Expr,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
    index: Value,
) -> relax.Expr:
    window = _window(emission, x, kernel, stride, padding, dilation, ceil_mode)
    return emission.emit(ops.max_pool2d_backward(gy, index.positions, oshape=shape_of(x), **window))


@converts(aten.avg_pool2d.default)
def avg_pool2d(
    emission: Emission,
    x: relax.Expr,
    kernel: list[int],
    stride: list[int] = (),
    padding: list[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> relax.Expr:
    _check_whole_plane(emission, x, kernel, padding, divisor)
    return emission.reshape(emission.emit(ops.global_avg_pool(x)), emission.result_shape())


@converts(aten.avg_pool2d_backward.default)
def avg_pool2d_backward(
    emission: Emission,
    gy: relax.Expr,
    x: relax.Expr,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> relax.Expr:
    _check_whole_plane(emission, x, kernel, padding, divisor)
    shape = shape_of(x)
    plane = emission.reshape(gy, shape[:2])
    share = emission.emit(R.divide(plane, emission.scalar(elements(shape[2:]), plane)))
    return emission.emit(ops.spatial_broadcast(share, oshape=shape))


def _window(
    emission: Emission,
    x: relax.Expr,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> dict[str, tuple[int, int]]:
    if ceil_mode or len(shape_of(x)) != 4:
        emission.refuse("uses ceil_mode or no batch of images; only [N, C, H, W] with ceil_mode=False is covered")
    return {
        "kernel": pair(kernel),
        "stride": pair(stride or kernel),
        "padding": pair(padding),
        "dilation": pair(dilation),
    }


def _check_whole_plane(
    emission: Emission, x: relax.Expr, kernel: list[int], padding: list[int], divisor: int | None
) -> None:
    shape = shape_of(x)
    if len(shape) != 4 or pair(kernel) != tuple(shape[2:]) or any(padding) or divisor is not None:
        emission.refuse("averages parts of a plane; only the average over the whole plane is covered")
