"""Max-pooling and average pooling with their gradients; the average over a whole plane is an operator of its own."""

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
    window = _average(emission, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    return _averaged(emission, x, window)


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
    window = _average(emission, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    return _averaged_backward(emission, gy, x, window)


@converts(aten._adaptive_avg_pool2d.default)
def adaptive_avg_pool2d(emission: Emission, x: relax.Expr, size: list[int]) -> relax.Expr:
    return _averaged(emission, x, _adaptive(emission, x, size))


@converts(aten._adaptive_avg_pool2d_backward.default)
def adaptive_avg_pool2d_backward(emission: Emission, gy: relax.Expr, x: relax.Expr) -> relax.Expr:
    return _averaged_backward(emission, gy, x, _adaptive(emission, x, shape_of(gy)[2:]))


def _average(
    emission: Emission,
    x: relax.Expr,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> dict[str, object]:
    window: dict[str, object] = _window(emission, x, kernel, stride, padding, (1,), ceil_mode)
    del window["dilation"]
    constant = count_include_pad or not any(window["padding"])
    return {**window, "divisor": divisor or (elements(list(window["kernel"])) if constant else 0)}


def _adaptive(emission: Emission, x: relax.Expr, size: list[int]) -> dict[str, object]:
    plane = shape_of(x)[-2:]
    if len(shape_of(x)) != 4 or any(extent % out for extent, out in zip(plane, size, strict=True)):
        emission.refuse(f"averages a plane of {plane} to {list(size)}; only windows of one size are covered")
    kernel = tuple(extent // out for extent, out in zip(plane, size, strict=True))
    return {"kernel": kernel, "stride": kernel, "padding": (0, 0), "divisor": elements(list(kernel))}


def _is_whole_plane(x: relax.Expr, window: dict[str, object]) -> bool:
    plane = shape_of(x)[2:]
    return list(window["kernel"]) == plane and not any(window["padding"]) and window["divisor"] == elements(plane)


def _averaged(emission: Emission, x: relax.Expr, window: dict[str, object]) -> relax.Expr:
    if _is_whole_plane(x, window):
        return emission.reshape(emission.emit(ops.global_avg_pool(x)), emission.result_shape())
    return emission.emit(ops.avg_pool2d(x, oshape=emission.result_shape(), **window))


def _averaged_backward(emission: Emission, gy: relax.Expr, x: relax.Expr, window: dict[str, object]) -> relax.Expr:
    shape = shape_of(x)
    if not _is_whole_plane(x, window):
        return emission.emit(ops.avg_pool2d_backward(gy, oshape=shape, **window))
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
