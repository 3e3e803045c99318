"""Max-pooling and average pooling with their gradients; the average over a whole plane is an operator of its own.

Adaptive pooling whose windows all have one size and one distance is a plain one.
"""

import itertools
from collections.abc import Sequence

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
    window = _window(emission, x, emission.result_shape(), kernel, stride, padding, dilation, ceil_mode)
    return _maximum(emission, x, window)


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
    window = _window(emission, x, shape_of(gy), kernel, stride, padding, dilation, ceil_mode)
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
    oshape = emission.result_shape()
    window = _average(emission, x, oshape, kernel, stride, padding, ceil_mode, count_include_pad, divisor)
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
    oshape = shape_of(gy)
    window = _average(emission, x, oshape, kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    return _averaged_backward(emission, gy, x, window)


@converts(aten._adaptive_avg_pool2d.default)
def adaptive_avg_pool2d(emission: Emission, x: relax.Expr, size: list[int]) -> relax.Expr:
    if _is_pixel(x):
        oshape = emission.result_shape()
        return emission.emit(ops.spatial_broadcast(emission.reshape(x, shape_of(x)[:2]), oshape=oshape))
    return _averaged(emission, x, _adaptive_average(emission, x, size))


@converts(aten._adaptive_avg_pool2d_backward.default)
def adaptive_avg_pool2d_backward(emission: Emission, gy: relax.Expr, x: relax.Expr) -> relax.Expr:
    if _is_pixel(x):
        return emission.emit(R.sum(gy, [2, 3], True))
    return _averaged_backward(emission, gy, x, _adaptive_average(emission, x, shape_of(gy)[2:]))


@converts(aten.adaptive_max_pool2d.default)
def adaptive_max_pool2d(emission: Emission, x: relax.Expr, size: list[int]) -> tuple[relax.Expr, WindowIndex]:
    return _maximum(emission, x, {**_adaptive(emission, x, size), "dilation": (1, 1)})


@converts(aten.adaptive_max_pool2d_backward.default)
def adaptive_max_pool2d_backward(emission: Emission, gy: relax.Expr, x: relax.Expr, index: Value) -> relax.Expr:
    window = {**_adaptive(emission, x, shape_of(gy)[2:]), "dilation": (1, 1)}
    return emission.emit(ops.max_pool2d_backward(gy, index.positions, oshape=shape_of(x), **window))


def _maximum(emission: Emission, x: relax.Expr, window: dict[str, object]) -> tuple[relax.Expr, WindowIndex]:
    y, positions = emission.emit_tuple(ops.max_pool2d(x, oshape=emission.result_shape(), **window), 2)
    return y, WindowIndex(positions)


def _average(
    emission: Emission,
    x: relax.Expr,
    oshape: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> dict[str, object]:
    window: dict[str, object] = _window(emission, x, oshape, kernel, stride, padding, (1,), ceil_mode)
    del window["dilation"]
    constant = count_include_pad or not any(window["padding"])
    return {**window, "divisor": divisor or (elements(list(window["kernel"])) if constant else 0)}


def _adaptive_average(emission: Emission, x: relax.Expr, size: Sequence[int]) -> dict[str, object]:
    window = _adaptive(emission, x, size)
    return {**window, "divisor": elements(list(window["kernel"]))}


def _adaptive(emission: Emission, x: relax.Expr, size: Sequence[int]) -> dict[str, tuple[int, int]]:
    """The plain pooling that has an adaptive one's windows."""
    plane = _plane(emission, x)
    spans = [_span(extent, int(out)) for extent, out in zip(plane, size, strict=True)]
    if None in spans:
        emission.refuse(
            f"pools a plane of {plane} to {list(size)} in windows of unequal size or distance, which are not covered; "
            "pool to a size that divides the plane"
        )
    kernel, stride = zip(*spans, strict=True)
    return {"kernel": kernel, "stride": stride, "padding": (0, 0)}


def _span(extent: int, out: int) -> tuple[int, int] | None:
    """(size, distance) of the windows floor(i * extent / out) to ceil((i + 1) * extent / out) that adaptive pooling
    has along an axis; None where they differ from window to window or several windows begin at one pixel.
    """
    starts = [i * extent // out for i in range(out)]
    sizes = {-(-(i + 1) * extent // out) - start for i, start in enumerate(starts)}
    distances = {after - before for before, after in itertools.pairwise(starts)} or set(sizes)
    if len(sizes) > 1 or len(distances) > 1 or 0 in distances:
        return None
    return sizes.pop(), distances.pop()


def _is_pixel(x: relax.Expr) -> bool:
    """Whether the plane is a single pixel, which is its own average however often it is asked for."""
    return shape_of(x)[2:] == [1, 1]


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
    oshape: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> dict[str, tuple[int, int]]:
    """The window of a pooling from x to oshape, refused where ceil_mode adds windows that reach beyond the padding."""
    plane = _plane(emission, x)
    window = {
        "kernel": pair(kernel),
        "stride": pair(stride or kernel),
        "padding": pair(padding),
        "dilation": pair(dilation),
    }
    whole = [
        (extent + 2 * before - apart * (width - 1) - 1) // step + 1
        for extent, width, step, before, apart in zip(plane, *window.values(), strict=True)
    ]
    if ceil_mode and oshape[2:] != whole:
        emission.refuse(
            f"uses ceil_mode, which makes a plane of {oshape[2:]} of {plane} where whole windows make {whole}; only "
            "whole windows are covered: set ceil_mode=False, or pad or crop its input to a plane that they fill"
        )
    return window


def _plane(emission: Emission, x: relax.Expr) -> list[int]:
    """[H, W] of what is pooled."""
    if len(shape_of(x)) != 4:
        emission.refuse(f"pools a tensor of shape {shape_of(x)}; only batches of images [N, C, H, W] are covered")
    return shape_of(x)[2:]
