"""Batch norm with residual add and ReLU (or ReLU6), forward and backward, a work-group a channel on OpenCL devices.

The statistics of a channel, its normalisation, the add and the ReLU are one launch, and so is their backward: a channel
of the whole batch is read again while a cache still holds it. The items of a group meet in `group_totals` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.normalisation import Normalisation

from ..emit import Buffer, Expr, activation, function, tree
from .emit import Vec, cell, launch, number
from .planes import Image, group_totals, image, kept_lanes, over_pixels, rounds, slots, when

LOADS = 4  # quads that a pass has on their way at once


class _Channel:
    """A channel of a batch norm, seen from a work-item of the work-group that has it all to itself."""

    def __init__(self, n: Normalisation, c: Expr, lane: Expr, slot: Expr, each: int) -> None:
        self.n, self.c, self.lane, self.slot, self.each = n, c, lane, slot, each
        self.pixels = n.x.height * n.x.width

    @property
    def item(self) -> Expr:
        """Number of the work-item in its group."""
        return self.slot * self.n.vec.quads + self.lane

    def image(self, buffer: Buffer, plane: Plane) -> Image:
        """An activation, whose planes of this channel are C apart."""
        return image(self.n.vec, buffer, plane, self.lane)

    def over(self, body: Callable[[list[tuple[Expr, Expr]], Callable[[Expr], Expr]], None], unroll: int = 1) -> None:
        """body([(plane's number, pixel), ...], mask of the lanes that hold examples) over the pixels of the item."""
        n = self.n
        for first, count, valid in n.tile_ranges():
            keep = kept_lanes(n.vec, self.lane, valid)

            def some(places: list[Expr], first: int = first, count: int = count, keep: Callable = keep) -> None:
                found = []
                for place in places:
                    tile = T.floordiv(place, self.pixels) if count > 1 else T.int32(0)
                    found.append(((first + tile) * n.channels + self.c, place - tile * self.pixels))
                body(found, keep)

            rounds(count * self.pixels, self.each, self.slot, some, unroll)

    def sums(self, inputs: Sequence[Image], terms: Callable[[list[Expr], tuple[Expr, Expr]], list[Expr]], count: int):
        """`count` sums over pixels, tiles and valid lanes of terms(loaded quads, (plane's number, pixel))."""
        vec = self.n.vec
        totals = vec.registers(count)
        for total in totals:
            vec.set(total, vec.const(0))

        def add(places: list[tuple[Expr, Expr]], keep: Callable[[Expr], Expr]) -> None:
            loaded = [[a.load(*place) for a in inputs] for place in places]
            values = [terms(v, place) for v, place in zip(loaded, places, strict=True)]
            for total, parts in zip(totals, zip(*values, strict=True), strict=True):
                vec.set(total, vec.get(total) + keep(tree(parts)))  # added up first: shorter sums

        self.over(add, max(LOADS // len(inputs), 1))
        return group_totals(vec, [vec.get(total) for total in totals], self.item, vec.quads * self.each)

    def zero_border(self, target: Image) -> None:
        """Zeros into the borders of an activation's planes of this channel."""
        n = self.n
        target.zero_border(n.tiles, self.each, self.slot, lambda i: i * n.channels + self.c)


def _over_channels(n: Normalisation, body: Callable[[_Channel], None]) -> None:
    """A work-group for each channel."""
    each = slots(n.vec, n.tiles * n.x.height * n.x.width)
    with launch([n.channels], [n.vec.quads, each]) as ((c,), (lane, slot)):
        body(_Channel(n, c, lane, slot, each))


def _scale_shift(dtype: str, w: Expr, b: Expr, mean: Expr, rstd: Expr) -> tuple[Expr, Expr]:
    """(scale, shift) of a channel, with which batch norm is scale * x + shift."""
    scale = cell(w * rstd, dtype)[0]
    return scale, cell(b - mean * scale, dtype)[0]


def _masked(vec: Vec, g: Expr, z: Expr, upper: float) -> Expr:
    """The gradient g behind a ReLU with an upper bound, whose output (or what it was made of) is z."""
    if upper < math.inf:
        g = tirx.Select(z < vec.const(upper), g, vec.const(0))
    return tirx.Select(z > vec.const(0), g, vec.const(0))


def _normalised(n: Normalisation, x: Image, residual: Image | None, scale: Expr, shift: Expr, *place: Expr) -> Expr:
    """[ReLU](scale * x + shift [+ residual]) at (plane's number, pixel)."""
    vec = n.vec
    (z,) = vec.registers(1)
    value = x.load(*place) * vec.splat(scale) + vec.splat(shift)
    vec.set(z, value if residual is None else value + residual.load(*place))
    if n.relu:
        vec.set(z, vec.at_least(vec.get(z), vec.const(0)))
        if n.upper < math.inf:
            vec.set(z, vec.at_most(vec.get(z), vec.const(n.upper)))
    return vec.get(z)


def _two_passes(channel: _Channel, x: Image) -> tuple[Expr, Expr]:
    """Mean of a channel, and the mean of its squared deviations from it."""
    vec, share = channel.n.vec, number(1.0 / channel.n.count, channel.n.vec.dtype)
    mean = cell(channel.sums([x], lambda v, _: [v[0]], 1)[0] * share, vec.dtype)[0]

    def squared(v: list[Expr], _: tuple[Expr, Expr]) -> list[Expr]:
        (d,) = vec.registers(1)
        vec.set(d, v[0] - vec.splat(mean))
        return [vec.get(d) * vec.get(d)]

    return mean, cell(channel.sums([x], squared, 1)[0] * share, vec.dtype)[0]


def _training(name: str, n: Normalisation, momentum: float, eps: float, writes: bool) -> tirx.PrimFunc:
    """`forward`, or if it writes nothing but statistics `statistics`."""
    vec, dtype = n.vec, n.vec.dtype

    def emit() -> None:
        x = activation("X", n.tiles, n.channels, n.x, vec)
        *affine, rm, rv = (
            T.arg(k, T.buffer((n.channels,), dtype)) for k in (*(("W", "B") if writes else ()), "RM", "RV")
        )
        residual = activation("R", n.tiles, n.channels, n.residual, vec) if n.residual else None
        z = activation("Z", n.tiles, n.channels, n.z, vec) if writes else None
        mean, rstd = (T.arg(k, T.buffer((n.channels,), dtype)) for k in ("MEAN", "RSTD"))

        def body(channel: _Channel) -> None:
            c, source = channel.c, channel.image(x, n.x)
            mu, var = _two_passes(channel, source)
            inverse = cell(tirx.const(1, dtype) / T.sqrt(var + number(eps, dtype)), dtype)[0]
            with when(channel.item == 0):
                T.buffer_store(mean, mu, [c])
                T.buffer_store(rstd, inverse, [c])
                unbiased = n.count / max(n.count - 1, 1)
                keep = number(1 - momentum, dtype)
                T.buffer_store(rm, rm[c] * keep + mu * number(momentum, dtype), [c])
                T.buffer_store(rv, rv[c] * keep + var * number(momentum * unbiased, dtype), [c])
            if not writes:
                return
            scale, shift = _scale_shift(dtype, *(v[c] for v in affine), mu, inverse)
            other = channel.image(residual, n.residual) if n.residual else None
            target = channel.image(z, n.z)

            def write(places: list[tuple[Expr, Expr]], _: Callable[[Expr], Expr]) -> None:
                for place in places:
                    target.store(_normalised(n, source, other, scale, shift, *place), *place)

            channel.over(write)
            channel.zero_border(target)

        _over_channels(n, body)

    return function(name, emit)


def forward(n: Normalisation, momentum: float, eps: float) -> tirx.PrimFunc:
    """Training-mode batch norm [+ residual] [+ ReLU]: three passes over each channel.

    Arguments: X, W [C], B [C], RM [C], RV [C] (running statistics, updated in place), [R], Z, MEAN [C], RSTD [C]. The
    running variance is scaled by N / (N - 1).
    """
    return _training("normalise", n, momentum, eps, writes=True)


def statistics(n: Normalisation, momentum: float, eps: float) -> tirx.PrimFunc:
    """What `forward` does but for Z. Arguments: X, RM, RV (updated in place), MEAN [C], RSTD [C]."""
    return _training("batch_statistics", n, momentum, eps, writes=False)


def inference(n: Normalisation, eps: float) -> tirx.PrimFunc:
    """Batch norm with running statistics [+ residual] [+ ReLU]. Arguments: X, W, B, RM, RV, [R], Z."""

    def inverse(variance: Expr) -> Expr:
        return tirx.const(1, n.vec.dtype) / T.sqrt(variance + number(eps, n.vec.dtype))

    return _with_known_statistics("normalise_inference", n, inverse)


def recompute(n: Normalisation) -> tirx.PrimFunc:
    """Z of `forward` once more. Arguments: X, W, B, MEAN, RSTD, [R], Z."""
    return _with_known_statistics("normalise_again", n, lambda rstd: rstd)


def _with_known_statistics(name: str, n: Normalisation, inverse: Callable[[Expr], Expr]) -> tirx.PrimFunc:
    """Arguments: X, W, B, a mean, what `inverse` makes 1 / deviation of, [R], Z."""
    vec, dtype = n.vec, n.vec.dtype

    def emit() -> None:
        x = activation("X", n.tiles, n.channels, n.x, vec)
        w, b, mean, spread = (T.arg(k, T.buffer((n.channels,), dtype)) for k in ("W", "B", "MEAN", "SPREAD"))
        residual = activation("R", n.tiles, n.channels, n.residual, vec) if n.residual else None
        z = activation("Z", n.tiles, n.channels, n.z, vec)

        def items(lane: Expr):
            source, target = image(vec, x, n.x, lane), image(vec, z, n.z, lane)
            other = image(vec, residual, n.residual, lane) if n.residual else None

            def pixel(plane: Expr, pixel: Expr) -> None:
                c = cell(T.floormod(plane, n.channels))[0]
                scale, shift = _scale_shift(dtype, w[c], b[c], mean[c], cell(inverse(spread[c]), dtype)[0])
                target.store(_normalised(n, source, other, scale, shift, plane, pixel), plane, pixel)

            return pixel, [target]

        over_pixels(vec, n.tiles * n.channels, n.x, items)

    return function(name, emit)


def backward(n: Normalisation, gradients: list[Plane], dx: Plane, keeps_gradient: bool) -> tirx.PrimFunc:
    """Backward of `forward`: g = (sum of incoming gradients) where 0 < z < upper bound; dX, dW, dB, and g for the
    residual.

    Arguments: one activation a gradient, X, [Z if there is a residual and a ReLU], W, B, MEAN, RSTD, dX, dW [C],
    dB [C], [G like z without border].
    Without a residual z is computed again from x, which spares reading z.
    dX = scale * (g - mean(g) - (x - mean) * rstd^2 * mean(g (x - mean))).
    """
    vec, dtype = n.vec, n.vec.dtype
    reads_z = n.relu and n.residual is not None
    bare = Plane(n.x.height, n.x.width)

    def emit() -> None:
        incoming = [activation(f"G{i}", n.tiles, n.channels, p, vec) for i, p in enumerate(gradients)]
        x = activation("X", n.tiles, n.channels, n.x, vec)
        z = activation("Z", n.tiles, n.channels, n.z, vec) if reads_z else None
        w, b, mean, rstd = (T.arg(k, T.buffer((n.channels,), dtype)) for k in ("W", "B", "MEAN", "RSTD"))
        out = activation("DX", n.tiles, n.channels, dx, vec)
        dw, db = (T.arg(k, T.buffer((n.channels,), dtype)) for k in ("DW", "DB"))
        kept = activation("G", n.tiles, n.channels, bare, vec) if keeps_gradient else None

        def body(channel: _Channel) -> None:
            c = channel.c
            mu, inverse = (cell(v[c], dtype)[0] for v in (mean, rstd))
            scale, shift = _scale_shift(dtype, w[c], b[c], mu, inverse)
            centre = vec.splat(mu)
            inputs = [channel.image(a, p) for a, p in zip(incoming, gradients, strict=True)]
            inputs += [channel.image(x, n.x)] + ([channel.image(z, n.z)] if reads_z else [])
            keeping = channel.image(kept, bare) if kept is not None else None

            def gradient(v: list[Expr]) -> Expr:
                g = tree(v[: len(incoming)])
                if not n.relu:
                    return g
                return _masked(vec, g, v[-1] if reads_z else v[-1] * vec.splat(scale) + vec.splat(shift), n.upper)

            def terms(v: list[Expr], place: tuple[Expr, Expr]) -> list[Expr]:
                (g,) = vec.registers(1)
                vec.set(g, gradient(v))
                if keeping is not None:
                    keeping.store(vec.get(g), *place)
                return [vec.get(g), vec.get(g) * (v[len(incoming)] - centre)]

            s1, s2 = channel.sums(inputs, terms, 2)
            with when(channel.item == 0):
                T.buffer_store(db, s1, [c])
                T.buffer_store(dw, s2 * inverse, [c])
            share, target = number(1.0 / n.count, dtype), channel.image(out, dx)
            slope = vec.splat(cell(s2 * inverse * inverse * share, dtype)[0])
            offset = vec.splat(cell(s1 * share, dtype)[0])

            def write(places: list[tuple[Expr, Expr]], keep: Callable[[Expr], Expr]) -> None:
                for place in places:
                    # What an item kept it reads back itself.
                    read = inputs if keeping is None else [keeping, inputs[len(incoming)]]
                    v = [a.load(*place) for a in read]
                    g, x = (gradient(v), v[len(incoming)]) if keeping is None else v
                    (value,) = vec.registers(1)
                    vec.set(value, (g - offset - (x - centre) * slope) * vec.splat(scale))
                    target.store(keep(vec.get(value)), *place)

            channel.over(write)
            channel.zero_border(target)

        _over_channels(n, body)

    return function("normalise_backward", emit)
