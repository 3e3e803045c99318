"""Pooling on OpenCL devices: the first maximum of a window and its place in the window, the mean of a window, and the
ways back, where each pixel of x gathers from the windows that hold it: nothing is added to in memory.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.pool import Pool

from ..emit import Expr, activation, function
from .emit import Vec, cell
from .planes import Image, image, over_pixels, when


def _row_column(p: Plane, pixel: Expr) -> tuple[Expr, Expr]:
    """Row and column of a pixel, counted without the border."""
    row = cell(T.floordiv(pixel, p.width))[0]
    return row, cell(pixel - row * p.width)[0]


def _tap(p: Pool, r: Expr, q: Expr, i: int, j: int) -> Expr:
    """Pixel of x under a tap of the window of output pixel (r, q), counted without the border."""
    return (r * p.stride[0] + i) * p.x.width + q * p.stride[1] + j


def _first_tap(p: Pool, r: Expr, q: Expr) -> Expr:
    """Place in the window of its first pixel of the image."""
    rows, cols = (
        T.floordiv(T.max(pad - at * step, 0) + dilation - 1, dilation) if pad else T.int32(0)
        for at, step, pad, dilation in zip((r, q), p.stride, p.padding, p.dilation, strict=True)
    )
    return rows * p.kernel[1] + cols


def _windows(p: Pool, row: Expr, col: Expr, body: Callable[[int, Expr, Expr], None]) -> None:
    """body(place in the window, r, q) for every output pixel (r, q) whose window holds pixel (row, col) of x."""
    for k, i, j in p.taps():
        conditions, places = [], []
        for at, offset, step, out, size in (
            (row, i, p.stride[0], p.y.height, p.x.height),
            (col, j, p.stride[1], p.y.width, p.x.width),
        ):
            start = at - offset  # step * the output's row or column, if it is one
            if step > 1:
                conditions.append(T.floormod(start + step * p.x.size, step) == 0)  # of a positive number
            if offset > 0:
                conditions.append(start >= 0)
            if size - 1 - offset >= out * step:
                conditions.append(start < out * step)
            places.append(T.floordiv(start, step))
        with when(*conditions):
            body(k, *places)


def forward(p: Pool) -> tirx.PrimFunc:
    """Arguments: X, Y, INDEX (int32, like Y without border)."""
    vec, places = p.vec, Vec(p.vec.lanes, "int32")
    bare = Plane(p.y.height, p.y.width)

    def emit() -> None:
        x = activation("X", p.tiles, p.channels, p.x, vec)
        y = activation("Y", p.tiles, p.channels, p.y, vec)
        index = activation("INDEX", p.tiles, p.channels, bare, places)

        def items(lane: Expr):
            source, target = image(vec, x, p.x, lane), image(vec, y, p.y, lane)
            chosen = image(places, index, bare, lane)

            def pixel(n: Expr, pixel: Expr) -> None:
                r, q = _row_column(p.y, pixel)
                (best,), (where,) = vec.registers(1), places.registers(1)
                vec.set(best, vec.const(float("-inf")))
                places.set(where, places.splat(_first_tap(p, r, q)))
                for k, i, j in p.taps():
                    with when(*p.inside(r, q, i, j)):
                        value = source.load(n, _tap(p, r, q, i, j))
                        # Any larger one, and a NaN, which is not below infinity, in any case: as PyTorch does.
                        for larger in (True, False):
                            found = vec.get(best) < value if larger else value <= vec.const(float("inf"))
                            new, old = (places.const(k), value), (places.get(where), vec.get(best))
                            (k_yes, yes), (k_no, no) = (new, old) if larger else (old, new)
                            places.set(where, tirx.Select(found, k_yes, k_no))
                            vec.set(best, tirx.Select(found, yes, no))
                target.store(vec.get(best), n, pixel)
                chosen.store(places.get(where), n, pixel)

            return pixel, [target]

        over_pixels(vec, p.tiles * p.channels, p.y, items)

    return function("max_pool", emit)


def _gathered(p: Pool, source: Image, target: Image, share: Callable[..., Expr]) -> Callable[[Expr, Expr], None]:
    """(plane's number, pixel): dX there, the sum of share(gradient, ...) over the windows that hold it."""
    vec = p.vec

    def pixel(n: Expr, pixel: Expr) -> None:
        row, col = _row_column(p.x, pixel)
        (total,) = vec.registers(1)
        vec.set(total, vec.const(0))

        def add(k: int, r: Expr, q: Expr) -> None:
            place = r * p.y.width + q
            vec.set(total, vec.get(total) + share(source.load(n, place), k, n, place, r, q))

        _windows(p, row, col, add)
        target.store(vec.get(total), n, pixel)

    return pixel


def backward(p: Pool) -> tirx.PrimFunc:
    """Arguments: dY (plane p.y), INDEX, dX (plane p.x). Overlapping windows add up."""
    vec, places = p.vec, Vec(p.vec.lanes, "int32")
    bare = Plane(p.y.height, p.y.width)

    def emit() -> None:
        dy = activation("DY", p.tiles, p.channels, p.y, vec)
        index = activation("INDEX", p.tiles, p.channels, bare, places)
        dx = activation("DX", p.tiles, p.channels, p.x, vec)

        def items(lane: Expr):
            source, target = image(vec, dy, p.y, lane), image(vec, dx, p.x, lane)
            chosen = image(places, index, bare, lane)

            def share(g: Expr, k: int, n: Expr, place: Expr, *_: Expr) -> Expr:
                return tirx.Select(chosen.load(n, place) == places.const(k), g, vec.const(0))

            return _gathered(p, source, target, share), [target]

        over_pixels(vec, p.tiles * p.channels, p.x, items)

    return function("max_pool_backward", emit)


def _share(p: Pool, divisor: int, r: Expr, q: Expr) -> Expr:
    """One by the divisor of a window; 0: by the image's pixels in it."""
    one = tirx.const(1, p.vec.dtype)
    if divisor:
        return p.vec.const(1 / divisor)
    counts = []
    for at, window, step, pad, size in zip((r, q), p.kernel, p.stride, p.padding, (p.x.height, p.x.width), strict=True):
        start = at * step - pad
        counts.append(T.min(start + window, size) - T.max(start, 0))
    return p.vec.splat(cell(one / tirx.Cast(p.vec.dtype, counts[0] * counts[1]), p.vec.dtype)[0])


def average(p: Pool, divisor: int) -> tirx.PrimFunc:
    """Y = sum over a window by its divisor; 0: by the image's pixels in it. Arguments: X, Y."""
    vec = p.vec

    def emit() -> None:
        x = activation("X", p.tiles, p.channels, p.x, vec)
        y = activation("Y", p.tiles, p.channels, p.y, vec)

        def items(lane: Expr):
            source, target = image(vec, x, p.x, lane), image(vec, y, p.y, lane)

            def pixel(n: Expr, pixel: Expr) -> None:
                r, q = _row_column(p.y, pixel)
                (total,) = vec.registers(1)
                vec.set(total, vec.const(0))
                for _, i, j in p.taps():
                    with when(*p.inside(r, q, i, j)):
                        vec.set(total, vec.get(total) + source.load(n, _tap(p, r, q, i, j)))
                target.store(vec.get(total) * _share(p, divisor, r, q), n, pixel)

            return pixel, [target]

        over_pixels(vec, p.tiles * p.channels, p.y, items)

    return function("avg_pool", emit)


def average_backward(p: Pool, divisor: int) -> tirx.PrimFunc:
    """Arguments: dY (plane p.y), dX (plane p.x). Overlapping windows add up."""
    vec = p.vec

    def emit() -> None:
        dy = activation("DY", p.tiles, p.channels, p.y, vec)
        dx = activation("DX", p.tiles, p.channels, p.x, vec)

        def items(lane: Expr):
            source, target = image(vec, dy, p.y, lane), image(vec, dx, p.x, lane)

            def share(g: Expr, _k: int, _n: Expr, _place: Expr, r: Expr, q: Expr) -> Expr:
                return g * _share(p, divisor, r, q)

            return _gathered(p, source, target, share), [target]

        over_pixels(vec, p.tiles * p.channels, p.x, items)

    return function("avg_pool_backward", emit)
