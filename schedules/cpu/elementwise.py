"""Passes over whole activations on any CPU: layout in and out, element-wise work, bias, pooling over a plane.

The kernel that writes a buffer writes its border too: memory is reused, so nothing is zero by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane

from ..emit import Buffer, Expr, activation, function
from .emit import Vec


def zero_border(vec: Vec, pointer: Buffer, plane: Plane) -> None:
    """Zeros into the border of the plane behind a pointer."""
    if not plane.border:
        return
    zero, b = vec.const(0), plane.border
    for start in (0, (plane.rows - b) * plane.cols):
        with T.serial(b * plane.cols) as i:
            vec.store(pointer, zero, i + start)
    with T.serial(plane.height) as r:
        for c in (*range(b), *range(plane.cols - b, plane.cols)):
            vec.store(pointer, zero, (r + b) * plane.cols + c)


def padding_mask(vec: Vec, valid: int) -> Callable[[Expr], Expr]:
    """Zeroes the lanes from `valid` on: examples that only fill up the last batch tile."""
    if valid == vec.lanes:
        return lambda value: value
    keep = T.ramp(T.int32(0), 1, vec.lanes) < T.broadcast(T.int32(valid), vec.lanes)
    return lambda value: tirx.Select(keep, value, vec.const(0))


def tile_in(batch: int, channels: int, plane: Plane, vec: Vec) -> tirx.PrimFunc:
    """[N, C, H, W] -> batch tiles with border; lanes past the batch are zero. Arguments: X, Y."""
    tiles = -(-batch // vec.lanes)

    def emit() -> None:
        x = T.arg("X", T.buffer((batch, channels, plane.height, plane.width), vec.dtype))
        y = activation("Y", tiles, channels, plane, vec)
        with T.parallel(tiles) as n, T.serial(channels) as c:
            target = vec.pointer(y, n, c * plane.size, 0)
            zero_border(vec, target, plane)
            with T.grid(plane.height, plane.width) as (r, q):
                place = (plane.at(0, 0) + r * plane.cols + q) * vec.lanes
                with T.serial(vec.lanes) as lane, T.If(n * vec.lanes + lane < batch):
                    with T.Then():
                        T.buffer_store(target, x[n * vec.lanes + lane, c, r, q], [place + lane])
                    with T.Else():
                        T.buffer_store(target, tirx.const(0, vec.dtype), [place + lane])

    return function("tile_in", emit)


def tile_out(batch: int, channels: int, plane: Plane, vec: Vec) -> tirx.PrimFunc:
    """Batch tiles -> [N, C, H, W]. Arguments: X, Y."""
    tiles = -(-batch // vec.lanes)

    def emit() -> None:
        x = activation("X", tiles, channels, plane, vec)
        y = T.arg("Y", T.buffer((batch, channels, plane.height, plane.width), vec.dtype))
        with T.parallel(batch) as n, T.serial(channels) as c, T.grid(plane.height, plane.width) as (r, q):
            pixel = c * plane.size + plane.at(0, 0) + r * plane.cols + q
            T.buffer_store(y, x[T.truncdiv(n, vec.lanes), pixel, T.truncmod(n, vec.lanes)], [n, c, r, q])

    return function("tile_out", emit)


def features_in(batch: int, features: int, vec: Vec) -> tirx.PrimFunc:
    """[N, C] -> [1, C * vectors, L], example n in vector n // L, lane n % L; past the batch zero. Arguments: X, Y."""
    vectors = -(-batch // vec.lanes)

    def emit() -> None:
        x = T.arg("X", T.buffer((batch, features), vec.dtype))
        y = T.arg("Y", T.buffer((1, features * vectors, vec.lanes), vec.dtype))
        with T.parallel(features) as c, T.grid(vectors, vec.lanes) as (t, lane), T.If(t * vec.lanes + lane < batch):
            with T.Then():
                T.buffer_store(y, x[t * vec.lanes + lane, c], [0, c * vectors + t, lane])
            with T.Else():
                T.buffer_store(y, tirx.const(0, vec.dtype), [0, c * vectors + t, lane])

    return function("features_in", emit)


def features_out(batch: int, features: int, vec: Vec) -> tirx.PrimFunc:
    """[1, C * vectors, L] -> [N, C], the inverse of `features_in`. Arguments: X, Y."""
    vectors = -(-batch // vec.lanes)

    def emit() -> None:
        x = T.arg("X", T.buffer((1, features * vectors, vec.lanes), vec.dtype))
        y = T.arg("Y", T.buffer((batch, features), vec.dtype))
        with T.parallel(batch) as n, T.serial(features) as c:
            place = c * vectors + T.truncdiv(n, vec.lanes)
            T.buffer_store(y, x[0, place, T.truncmod(n, vec.lanes)], [n, c])

    return function("features_out", emit)


def elementwise(
    name: str,
    tiles: int,
    channels: int,
    sources: Sequence[Plane],
    target: Plane,
    vec: Vec,
    compute: Callable[..., Expr],
    channel_inputs: int = 0,
) -> tirx.PrimFunc:
    """out = compute(*inputs) pixel by pixel. Arguments: the activations, `channel_inputs` vectors [C], the output."""

    def emit() -> None:
        inputs = [activation(f"A{i}", tiles, channels, plane, vec) for i, plane in enumerate(sources)]
        per_channel = [T.arg(f"B{i}", T.buffer((channels,), vec.dtype)) for i in range(channel_inputs)]
        out = activation("Y", tiles, channels, target, vec)
        with T.parallel(tiles * channels) as nc:
            n, c = T.Bind(T.truncdiv(nc, channels)), T.Bind(T.truncmod(nc, channels))
            pointers = [vec.pointer(a, n, c * p.size + p.at(0, 0), 0) for a, p in zip(inputs, sources, strict=True)]
            constants = [vec.splat(b[c]) for b in per_channel]
            whole = vec.pointer(out, n, c * target.size, 0)
            zero_border(vec, whole, target)
            with T.grid(target.height, target.width) as (r, q):
                loaded = [vec.load(a, r * p.cols + q) for a, p in zip(pointers, sources, strict=True)]
                vec.store(whole, compute(*loaded, *constants), r * target.cols + q + target.at(0, 0))

    return function(name, emit)


def channel_sum(tiles: int, channels: int, plane: Plane, vec: Vec) -> tirx.PrimFunc:
    """[C] sums over batch, rows and columns: the gradient of a bias. Arguments: dY, dB. Padded lanes of dY are zero."""

    def emit() -> None:
        x = activation("X", tiles, channels, plane, vec)
        out = T.arg("Y", T.buffer((channels,), vec.dtype))
        with T.parallel(channels) as c:
            total, row = vec.registers(2)
            vec.set(total, vec.const(0))
            with T.serial(tiles) as n, T.serial(plane.height) as r:
                source = vec.pointer(x, n, c * plane.size + plane.at(0, 0) + r * plane.cols, 0)
                vec.set(row, vec.const(0))
                with T.serial(plane.width) as q:
                    vec.set(row, vec.get(row) + vec.load(source, q))
                vec.set(total, vec.get(total) + vec.get(row))
            T.buffer_store(out, vec.total(vec.get(total)), [c])

    return function("channel_sum", emit)


def plane_mean(batch: int, channels: int, plane: Plane, vec: Vec) -> tirx.PrimFunc:
    """[N, C] means over rows and columns. Arguments: X, Y."""
    tiles = -(-batch // vec.lanes)

    def emit() -> None:
        x = activation("X", tiles, channels, plane, vec)
        out = T.arg("Y", T.buffer((batch, channels), vec.dtype))
        with T.parallel(tiles) as n, T.serial(channels) as c:
            total, row = vec.registers(2)
            vec.set(total, vec.const(0))
            with T.serial(plane.height) as r:
                source = vec.pointer(x, n, c * plane.size + plane.at(0, 0) + r * plane.cols, 0)
                vec.set(row, vec.const(0))
                with T.serial(plane.width) as q:
                    vec.set(row, vec.get(row) + vec.load(source, q))
                vec.set(total, vec.get(total) + vec.get(row))
            scale = tirx.const(1.0 / (plane.height * plane.width), vec.dtype)
            for lane in range(vec.lanes):
                with T.If(n * vec.lanes + lane < batch), T.Then():
                    T.buffer_store(out, total[lane] * scale, [n * vec.lanes + lane, c])

    return function("plane_mean", emit)


def plane_broadcast(batch: int, channels: int, plane: Plane, vec: Vec) -> tirx.PrimFunc:
    """[N, C] -> every pixel of batch tiles; lanes past the batch are zero. Arguments: X, Y."""
    tiles = -(-batch // vec.lanes)

    def emit() -> None:
        x = T.arg("X", T.buffer((batch, channels), vec.dtype))
        y = activation("Y", tiles, channels, plane, vec)
        with T.parallel(tiles) as n, T.serial(channels) as c:
            (value,) = vec.registers(1)
            for lane in range(vec.lanes):
                with T.If(n * vec.lanes + lane < batch):
                    with T.Then():
                        T.buffer_store(value, x[n * vec.lanes + lane, c], [lane])
                    with T.Else():
                        T.buffer_store(value, tirx.const(0, vec.dtype), [lane])
            target = vec.pointer(y, n, c * plane.size, 0)
            zero_border(vec, target, plane)
            with T.grid(plane.height, plane.width) as (r, q):
                vec.store(target, vec.get(value), r * plane.cols + q + plane.at(0, 0))

    return function("plane_broadcast", emit)


def assign(shape: tuple[int, ...], dtype: str) -> tirx.PrimFunc:
    """A = B, for small buffers that a step keeps. Arguments: A, B."""

    def emit() -> None:
        a, b = (T.arg(k, T.buffer(shape, dtype)) for k in "AB")
        size = max(prod(shape), 1)
        a, b = (T.decl_buffer((size,), dtype, data=x.data) for x in (a, b))
        with T.serial(size) as i:
            T.buffer_store(a, b[i], [i])

    return function("assign", emit)
