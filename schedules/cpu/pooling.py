"""Pooling on any CPU: the first maximum of a window and its place in the window, the mean of a window, and the ways
back.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.pool import Pool

from ..emit import Buffer, Expr, activation, function
from .elementwise import zero_border
from .emit import Vec

NOWHERE = -1  # place in the window before any pixel of the image was met


def _when(checks: list[Expr], body) -> None:
    """body() if all of the conditions hold."""
    if not checks:
        body()
        return
    with T.If(checks[0] if len(checks) == 1 else tirx.all(*checks)), T.Then():
        body()


def _zero_plane(p: Pool, target: Buffer) -> None:
    """Zeros into a plane of x, border included, before windows add to it."""
    with T.serial(p.x.size) as k:
        p.vec.store(target, p.vec.const(0), k)


def _add(p: Pool, target: Buffer, r: Expr, q: Expr, i: int, j: int, value: Expr) -> None:
    """Add to the pixel of x under a tap; overlapping windows add up."""
    pixel = p.pixel(r, q, i, j)
    p.vec.store(target, p.vec.load(target, pixel) + value, pixel)


def forward(p: Pool) -> tirx.PrimFunc:
    """Arguments: X, Y, INDEX (int32, like Y without border)."""
    vec, places = p.vec, Vec(p.vec.lanes, "int32")
    bare = Plane(p.y.height, p.y.width)

    def emit() -> None:
        x = activation("X", p.tiles, p.channels, p.x, vec)
        y = activation("Y", p.tiles, p.channels, p.y, vec)
        index = activation("INDEX", p.tiles, p.channels, bare, places)
        with T.parallel(p.tiles * p.channels) as nc:
            n, c = T.Bind(T.truncdiv(nc, p.channels)), T.Bind(T.truncmod(nc, p.channels))
            target = vec.pointer(y, n, c * p.y.size, 0)
            zero_border(vec, target, p.y)
            with T.grid(p.y.height, p.y.width) as (r, q):
                (best,), (where,) = vec.registers(1), places.registers(1)
                vec.set(best, vec.const(float("-inf")))
                places.set(where, places.const(NOWHERE))
                for k, i, j in p.taps():

                    def take(k: int = k, i: int = i, j: int = j) -> None:
                        value = T.Bind(x[n, c * p.x.size + p.pixel(r, q, i, j), vec.ramp()])
                        # The first pixel of the image, then any larger one, and a NaN in any case, as PyTorch does.
                        for found in (
                            lambda: places.get(where) == places.const(NOWHERE),
                            lambda: value > vec.get(best),
                            lambda: tirx.isnan(value),
                        ):
                            where_now = T.Bind(tirx.Select(found(), places.const(k), places.get(where)))
                            vec.set(best, tirx.Select(found(), value, vec.get(best)))
                            places.set(where, where_now)

                    _when(p.inside(r, q, i, j), take)
                vec.store(target, vec.get(best), r * p.y.cols + q + p.y.at(0, 0))
                T.buffer_store(index, places.get(where), [n, c * bare.size + r * bare.cols + q, places.ramp()])

    return function("max_pool", emit)


def backward(p: Pool) -> tirx.PrimFunc:
    """Arguments: dY (plane p.y), INDEX, dX (plane p.x). Overlapping windows add up."""
    vec, places = p.vec, Vec(p.vec.lanes, "int32")
    bare = Plane(p.y.height, p.y.width)

    def emit() -> None:
        dy = activation("DY", p.tiles, p.channels, p.y, vec)
        index = activation("INDEX", p.tiles, p.channels, bare, places)
        dx = activation("DX", p.tiles, p.channels, p.x, vec)
        with T.parallel(p.tiles * p.channels) as nc:
            n, c = T.Bind(T.truncdiv(nc, p.channels)), T.Bind(T.truncmod(nc, p.channels))
            target = vec.pointer(dx, n, c * p.x.size, 0)
            _zero_plane(p, target)
            with T.grid(p.y.height, p.y.width) as (r, q):
                g = T.Bind(dy[n, c * p.y.size + r * p.y.cols + q + p.y.at(0, 0), vec.ramp()])
                where = T.Bind(index[n, c * bare.size + r * bare.cols + q, places.ramp()])
                for k, i, j in p.taps():

                    def add(k: int = k, i: int = i, j: int = j) -> None:
                        _add(p, target, r, q, i, j, tirx.Select(where == places.const(k), g, vec.const(0)))

                    _when(p.inside(r, q, i, j), add)

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
    return p.vec.splat(T.Bind(one / tirx.Cast(p.vec.dtype, counts[0] * counts[1])))


def average(p: Pool, divisor: int) -> tirx.PrimFunc:
    """Y = sum over a window by its divisor; 0: by the image's pixels in it. Arguments: X, Y."""
    vec = p.vec

    def emit() -> None:
        x = activation("X", p.tiles, p.channels, p.x, vec)
        y = activation("Y", p.tiles, p.channels, p.y, vec)
        with T.parallel(p.tiles * p.channels) as nc:
            n, c = T.Bind(T.truncdiv(nc, p.channels)), T.Bind(T.truncmod(nc, p.channels))
            source = vec.pointer(x, n, c * p.x.size, 0)
            target = vec.pointer(y, n, c * p.y.size, 0)
            zero_border(vec, target, p.y)
            with T.grid(p.y.height, p.y.width) as (r, q):
                (total,) = vec.registers(1)
                vec.set(total, vec.const(0))
                for _, i, j in p.taps():

                    def add(i: int = i, j: int = j) -> None:
                        vec.set(total, vec.get(total) + vec.load(source, p.pixel(r, q, i, j)))

                    _when(p.inside(r, q, i, j), add)
                vec.store(target, vec.get(total) * _share(p, divisor, r, q), r * p.y.cols + q + p.y.at(0, 0))

    return function("avg_pool", emit)


def average_backward(p: Pool, divisor: int) -> tirx.PrimFunc:
    """Arguments: dY (plane p.y), dX (plane p.x). Overlapping windows add up."""
    vec = p.vec

    def emit() -> None:
        dy = activation("DY", p.tiles, p.channels, p.y, vec)
        dx = activation("DX", p.tiles, p.channels, p.x, vec)
        with T.parallel(p.tiles * p.channels) as nc:
            n, c = T.Bind(T.truncdiv(nc, p.channels)), T.Bind(T.truncmod(nc, p.channels))
            source = vec.pointer(dy, n, c * p.y.size + p.y.at(0, 0), 0)
            target = vec.pointer(dx, n, c * p.x.size, 0)
            _zero_plane(p, target)
            with T.grid(p.y.height, p.y.width) as (r, q):
                g = T.Bind(vec.load(source, r * p.y.cols + q) * _share(p, divisor, r, q))
                for _, i, j in p.taps():

                    def add(i: int = i, j: int = j) -> None:
                        _add(p, target, r, q, i, j, g)

                    _when(p.inside(r, q, i, j), add)

    return function("avg_pool_backward", emit)
