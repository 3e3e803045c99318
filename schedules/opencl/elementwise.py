"""Passes over whole activations on OpenCL devices: layout in and out, element-wise work, bias, pooling over a plane.

The kernel that writes a buffer writes its border too: memory is reused, so nothing is zero by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane

from ..emit import Buffer, Expr, activation, function
from .emit import QUAD, Vec, flat, launch, part, together
from .planes import GROUP, group_totals, image, over_pixels, rounds, slots, when


def _gather(vec: Vec, batch: int, source: Buffer, example: Expr, at: Callable[[Expr], Expr]) -> Buffer:
    """A register of four examples' numbers, source[at(example)]; past the batch zero."""
    (value,) = vec.registers(1)
    numbers = [T.alloc_buffer((1,), vec.dtype, scope="local") for _ in range(QUAD)]
    for k, one in enumerate(numbers):
        T.buffer_store(one, tirx.const(0, vec.dtype), [0])
        with when(True if batch % vec.lanes == 0 else example + k < batch):
            T.buffer_store(one, source[at(example + k)], [0])
    vec.set(value, together(*(one[0] for one in numbers), dtype=vec.dtype))
    return value


def _scatter(vec: Vec, batch: int, target: Buffer, value: Expr, example: Expr, at: Callable[[Expr], Expr]) -> None:
    """target[at(example)] = the number of each of four examples, as far as the batch goes."""
    for k in range(QUAD):
        with when(True if batch % vec.lanes == 0 else example + k < batch):
            T.buffer_store(target, part(value, k), [at(example + k)])


def _tiled(name: str, batch: int, channels: int, plane: Plane, vec: Vec, into: bool) -> tirx.PrimFunc:
    """[N, C, H, W] and batch tiles, one copied to the other. Arguments: X, Y."""
    tiles, pixels = -(-batch // vec.lanes), plane.height * plane.width

    def emit() -> None:
        shape = (batch, channels, plane.height, plane.width)
        if into:
            plain = T.arg("X", T.buffer(shape, vec.dtype))
            tiled = activation("Y", tiles, channels, plane, vec)
        else:
            tiled = activation("X", tiles, channels, plane, vec)
            plain = T.arg("Y", T.buffer(shape, vec.dtype))
        plain = flat(plain)

        def items(lane: Expr):
            quads = image(vec, tiled, plane, lane)

            def copy(n: Expr, pixel: Expr) -> None:
                tile = T.floordiv(n, channels)
                example = tile * vec.lanes + lane * QUAD

                def at(example: Expr) -> Expr:
                    return (example * channels + n - tile * channels) * pixels + pixel

                if into:
                    quads.store(vec.get(_gather(vec, batch, plain, example, at)), n, pixel)
                else:
                    _scatter(vec, batch, plain, quads.load(n, pixel), example, at)

            return copy, [quads] if into else []

        over_pixels(vec, tiles * channels, plane, items)

    return function(name, emit)


def tile_in(batch: int, channels: int, plane: Plane, vec: Vec) -> tirx.PrimFunc:
    """[N, C, H, W] -> batch tiles with border; lanes past the batch are zero. Arguments: X, Y."""
    return _tiled("tile_in", batch, channels, plane, vec, into=True)


def tile_out(batch: int, channels: int, plane: Plane, vec: Vec) -> tirx.PrimFunc:
    """Batch tiles -> [N, C, H, W]. Arguments: X, Y."""
    return _tiled("tile_out", batch, channels, plane, vec, into=False)


def _features(name: str, batch: int, features: int, vec: Vec, into: bool) -> tirx.PrimFunc:
    vectors = -(-batch // vec.lanes)

    def emit() -> None:
        shapes = (batch, features), (1, features * vectors, vec.lanes)
        plain, tiled = shapes if into else reversed(shapes)
        plain, tiled = T.arg("X", T.buffer(plain, vec.dtype)), T.arg("Y", T.buffer(tiled, vec.dtype))
        plain, tiled = (flat(b) for b in ((plain, tiled) if into else (tiled, plain)))

        def items(lane: Expr):
            def copy(feature: Expr, t: Expr) -> None:
                example, quad = t * vec.lanes + lane * QUAD, (feature * vectors + t) * vec.quads + lane

                def at(example: Expr) -> Expr:
                    return example * features + feature

                if into:
                    vec.store(tiled, vec.get(_gather(vec, batch, plain, example, at)), quad)
                else:
                    _scatter(vec, batch, plain, T.Bind(vec.load(tiled, quad)), example, at)

            return copy, []

        over_pixels(vec, features, Plane(1, vectors), items)

    return function(name, emit)


def features_in(batch: int, features: int, vec: Vec) -> tirx.PrimFunc:
    """[N, C] -> [1, C * vectors, L], example n in vector n // L, lane n % L; past the batch zero. Arguments: X, Y."""
    return _features("features_in", batch, features, vec, into=True)


def features_out(batch: int, features: int, vec: Vec) -> tirx.PrimFunc:
    """[1, C * vectors, L] -> [N, C], the inverse of `features_in`. Arguments: X, Y."""
    return _features("features_out", batch, features, vec, into=False)


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
    """out = compute(*inputs) on quads. Arguments: the activations, `channel_inputs` vectors [C], the output."""

    def emit() -> None:
        inputs = [activation(f"A{i}", tiles, channels, plane, vec) for i, plane in enumerate(sources)]
        per_channel = [T.arg(f"B{i}", T.buffer((channels,), vec.dtype)) for i in range(channel_inputs)]
        out = activation("Y", tiles, channels, target, vec)

        def items(lane: Expr):
            images = [image(vec, a, p, lane) for a, p in zip(inputs, sources, strict=True)]
            written = image(vec, out, target, lane)

            def pixel(n: Expr, pixel: Expr) -> None:
                loaded = [a.load(n, pixel) for a in images]
                constants = [vec.splat(T.Bind(b[T.floormod(n, channels)])) for b in per_channel]
                written.store(compute(*loaded, *constants), n, pixel)

            return pixel, [written]

        over_pixels(vec, tiles * channels, target, items)

    return function(name, emit)


def channel_sum(tiles: int, channels: int, plane: Plane, vec: Vec) -> tirx.PrimFunc:
    """[C] sums over batch, rows and columns: the gradient of a bias. Arguments: dY, dB. Padded lanes of dY are zero."""
    pixels = plane.height * plane.width
    each = slots(vec, tiles * pixels)

    def emit() -> None:
        x = activation("X", tiles, channels, plane, vec)
        out = T.arg("Y", T.buffer((channels,), vec.dtype))
        with launch([channels], [vec.quads, each]) as ((c,), (lane, slot)):
            source = image(vec, x, plane, lane)
            (total,) = vec.registers(1)
            vec.set(total, vec.const(0))

            def add(places: list[Expr]) -> None:
                for place in places:
                    tile = T.floordiv(place, pixels)
                    vec.set(total, vec.get(total) + source.load(tile * channels + c, place - tile * pixels))

            rounds(tiles * pixels, each, slot, add, unroll=4)
            item = slot * vec.quads + lane
            (found,) = group_totals(vec, [vec.get(total)], item, vec.quads * each)
            with when(item == 0):
                T.buffer_store(out, found, [c])

    return function("channel_sum", emit)


def plane_mean(batch: int, channels: int, plane: Plane, vec: Vec) -> tirx.PrimFunc:
    """[N, C] means over rows and columns. Arguments: X, Y."""
    tiles, pixels = -(-batch // vec.lanes), plane.height * plane.width
    each = slots(vec, pixels)

    def emit() -> None:
        x = activation("X", tiles, channels, plane, vec)
        out = T.arg("Y", T.buffer((batch, channels), vec.dtype))
        with launch([tiles * channels], [vec.quads, each]) as ((n,), (lane, slot)):
            source, target = image(vec, x, plane, lane), flat(out)
            (total,) = vec.registers(1)
            vec.set(total, vec.const(0))

            def add(places: list[Expr]) -> None:
                for place in places:
                    vec.set(total, vec.get(total) + source.load(n, place))

            rounds(pixels, each, slot, add, unroll=4)
            sums = T.alloc_buffer((each * vec.lanes,), vec.dtype, scope="shared")
            vec.store(sums, vec.get(total), slot * vec.quads + lane)
            with when(slot == 0):
                for k in range(1, each):
                    vec.set(total, vec.get(total) + vec.load(sums, k * vec.quads + lane))
                tile = T.floordiv(n, channels)
                value = vec.get(total) * vec.const(1.0 / pixels)
                example = tile * vec.lanes + lane * QUAD
                vec.set(total, value)
                _scatter(vec, batch, target, vec.get(total), example, lambda e: e * channels + (n - tile * channels))

    return function("plane_mean", emit)


def plane_broadcast(batch: int, channels: int, plane: Plane, vec: Vec) -> tirx.PrimFunc:
    """[N, C] -> every pixel of batch tiles; lanes past the batch are zero. Arguments: X, Y."""
    tiles, pixels = -(-batch // vec.lanes), plane.height * plane.width
    each = slots(vec, pixels)

    def emit() -> None:
        x = T.arg("X", T.buffer((batch, channels), vec.dtype))
        y = activation("Y", tiles, channels, plane, vec)
        with launch([tiles * channels], [vec.quads, each]) as ((n,), (lane, slot)):
            source, target = flat(x), image(vec, y, plane, lane)
            tile = T.floordiv(n, channels)
            example = tile * vec.lanes + lane * QUAD
            value = _gather(vec, batch, source, example, lambda e: e * channels + (n - tile * channels))
            rounds(pixels, each, slot, lambda places: target.store(vec.get(value), n, places[0]))
            target.zero_border(1, each, slot, lambda _: n)

    return function("plane_broadcast", emit)


def assign(shape: tuple[int, ...], dtype: str) -> tirx.PrimFunc:
    """A = B, for small buffers that a step keeps. Arguments: A, B."""
    size = prod(shape)
    items = min(GROUP, max(size, 1))

    def emit() -> None:
        a, b = (flat(x) for x in [T.arg(k, T.buffer(shape, dtype)) for k in "AB"])
        with launch([max(-(-size // items), 1)], [items]) as ((block,), (item,)):
            place = block * items + item
            with when(True if size % items == 0 and size else place < size):
                T.buffer_store(a, b[place], [place])

    return function("assign", emit)
