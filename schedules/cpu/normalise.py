"""Batch norm with residual add and ReLU (or ReLU6), forward and backward, a channel at a time on any CPU.

A channel of the whole batch stays in a core's cache between its passes, so memory is read once and written once: the
statistics, the normalisation, the add and the ReLU are one pass over memory, and so is their backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.normalisation import Normalisation

from ..emit import Buffer, Expr, activation, blocks, each, function, tree
from .elementwise import padding_mask, zero_border
from .emit import Vec

UNROLL = 8  # vectors added as a tree before they meet the running sum: short chains, and no long fp32 sums


def each_tile(n: Normalisation, body: Callable[[Expr, Callable[[Expr], Expr]], None]) -> None:
    """body(tile, mask of the lanes that hold examples) for every tile."""
    for first, count, valid in n.tile_ranges():
        mask = padding_mask(n.vec, valid)
        with T.serial(count) as i:
            body(i + first, mask)


def _sums(n: Normalisation, planes: list[Plane], pointers, terms, sums: list[Buffer]) -> None:
    """sums[k] += the sum over pixels, tiles and valid lanes of terms(loaded vectors)[k]; pointers(tile): the inputs."""
    vec = n.vec

    def add(tile: Expr, mask: Callable[[Expr], Expr]) -> None:
        sources = pointers(tile)
        with T.serial(n.x.height) as r:
            for part in blocks(n.x.width, min(UNROLL, n.x.width)):
                with each(part) as q:
                    values: list[list[Expr]] = [[] for _ in sums]
                    for k in range(part.size):
                        loaded = [T.Bind(vec.load(s, r * p.cols + q + k)) for s, p in zip(sources, planes, strict=True)]
                        for target, term in zip(values, terms(loaded, (tile, r, q + k)), strict=True):
                            target.append(term)
                    for total, parts in zip(sums, values, strict=True):
                        vec.set(total, vec.get(total) + mask(tree(parts)))

    each_tile(n, add)


def scale_shift(vec: Vec, w: Expr, b: Expr, mean: Expr, rstd: Expr) -> tuple[Expr, Expr]:
    """Vectors (scale, shift) of a channel, with which batch norm is scale * x + shift."""
    scale = T.Bind(w * rstd)
    return vec.splat(scale), vec.splat(T.Bind(b - mean * scale))


def masked(vec: Vec, g: Expr, z: Expr, upper: float) -> Expr:
    """The gradient g behind a ReLU with an upper bound, whose output (or what it was made of) is z."""
    if upper < math.inf:
        g = tirx.Select(z < vec.const(upper), g, vec.const(0))
    return tirx.Select(z > vec.const(0), g, vec.const(0))


def _write(n: Normalisation, c: Expr, x: Buffer, residual: Buffer | None, z: Buffer, scale: Expr, shift: Expr) -> None:
    """z = [ReLU](scale * x + shift [+ residual]) over a channel, border zeroed."""
    with T.serial(n.tiles) as tile:
        write_plane(n, c, tile, x, residual, n.vec.pointer(z, tile, c * n.z.size, 0), scale, shift)


def write_plane(
    n: Normalisation, c: Expr, tile: Expr, x: Buffer, residual: Buffer | None, target: Buffer, scale: Expr, shift: Expr
) -> None:
    """A plane of z with its border, to a pointer."""
    vec = n.vec
    source = vec.pointer(x, tile, c * n.x.size + n.x.at(0, 0), 0)
    other = vec.pointer(residual, tile, c * n.residual.size + n.residual.at(0, 0), 0) if n.residual else None
    zero_border(vec, target, n.z)
    with T.grid(n.x.height, n.x.width) as (r, q):
        value = vec.load(source, r * n.x.cols + q) * scale + shift
        if other is not None:
            value = value + vec.load(other, r * n.residual.cols + q)
        if n.relu:
            value = vec.at_least(value, vec.const(0))
        if n.relu and n.upper < math.inf:
            value = vec.at_most(value, vec.const(n.upper))
        vec.store(target, value, r * n.z.cols + q + n.z.at(0, 0))


def _two_passes(n: Normalisation, c: Expr, x: Buffer, _: None) -> tuple[Expr, Expr]:
    """Mean of a channel, and the mean of its squared deviations from it."""
    vec, part = n.vec, tirx.const(1.0 / n.count, n.vec.dtype)

    def source(tile: Expr) -> list[Buffer]:
        return [vec.pointer(x, tile, c * n.x.size + n.x.at(0, 0), 0)]

    (total,) = vec.registers(1)
    vec.set(total, vec.const(0))
    _sums(n, [n.x], source, lambda v, _: [v[0]], [total])
    mean = T.Bind(vec.total(vec.get(total)) * part)
    centre = vec.splat(mean)
    vec.set(total, vec.const(0))

    def squared(v: list[Expr], _) -> list[Expr]:
        d = T.Bind(v[0] - centre)
        return [d * d]

    _sums(n, [n.x], source, squared, [total])
    return mean, T.Bind(vec.total(vec.get(total)) * part)


def training(
    name: str,
    n: Normalisation,
    momentum: float,
    eps: float,
    statistics: Callable[[Normalisation, Expr, Buffer, Buffer | None], tuple[Expr, Expr]],
    sums: Plane | None = None,
    writes: bool = True,
) -> tirx.PrimFunc:
    """Training-mode batch norm [+ residual] [+ ReLU], whose mean and variance come from `statistics(n, channel, X,
    SUMS)`.

    Arguments: X, W [C], B [C], RM [C], RV [C] (running statistics, updated in place), [R], [SUMS, an activation of
    planes `sums`], Z, MEAN [C], RSTD [C]. The running variance is scaled by N / (N - 1).
    Not `writes`: only the statistics; arguments X, RM, RV, [SUMS], MEAN, RSTD.
    """
    vec, dtype = n.vec, n.vec.dtype

    def const(value: float) -> Expr:
        return tirx.const(value, dtype)

    def emit() -> None:
        x = activation("X", n.tiles, n.channels, n.x, vec)
        *affine, rm, rv = (
            T.arg(k, T.buffer((n.channels,), dtype)) for k in (*(("W", "B") if writes else ()), "RM", "RV")
        )
        residual = activation("R", n.tiles, n.channels, n.residual, vec) if n.residual else None
        taken = activation("SUMS", n.tiles, n.channels, sums, vec) if sums is not None else None
        z = activation("Z", n.tiles, n.channels, n.z, vec) if writes else None
        mean, rstd = (T.arg(k, T.buffer((n.channels,), dtype)) for k in ("MEAN", "RSTD"))
        with T.parallel(n.channels) as c:
            mu, var = statistics(n, c, x, taken)
            inverse = T.Bind(const(1) / T.sqrt(var + const(eps)))
            T.buffer_store(mean, mu, [c])
            T.buffer_store(rstd, inverse, [c])
            unbiased = n.count / max(n.count - 1, 1)
            T.buffer_store(rm, rm[c] * const(1 - momentum) + mu * const(momentum), [c])
            T.buffer_store(rv, rv[c] * const(1 - momentum) + var * const(momentum * unbiased), [c])
            if writes:
                w, b = affine
                _write(n, c, x, residual, z, *scale_shift(vec, w[c], b[c], mu, inverse))

    return function(name, emit)


def forward(n: Normalisation, momentum: float, eps: float) -> tirx.PrimFunc:
    """Training-mode batch norm [+ residual] [+ ReLU]: three passes over each channel.

    Arguments: X, W [C], B [C], RM [C], RV [C] (running statistics, updated in place), [R], Z, MEAN [C], RSTD [C].
    """
    return training("normalise", n, momentum, eps, _two_passes)


def statistics(n: Normalisation, momentum: float, eps: float) -> tirx.PrimFunc:
    """What `forward` does but for Z. Arguments: X, RM, RV (updated in place), MEAN [C], RSTD [C]."""
    return training("batch_statistics", n, momentum, eps, _two_passes, writes=False)


def inference(n: Normalisation, eps: float) -> tirx.PrimFunc:
    """Batch norm with running statistics [+ residual] [+ ReLU]. Arguments: X, W, B, RM, RV, [R], Z."""

    def inverse(variance: Expr) -> Expr:
        return T.Bind(tirx.const(1, n.vec.dtype) / T.sqrt(variance + tirx.const(eps, n.vec.dtype)))

    return _with_known_statistics("normalise_inference", n, inverse)


def recompute(n: Normalisation) -> tirx.PrimFunc:
    """Z of `forward` once more, bit for bit. Arguments: X, W, B, MEAN, RSTD, [R], Z."""
    return _with_known_statistics("normalise_again", n, lambda rstd: rstd)


def _with_known_statistics(name: str, n: Normalisation, inverse: Callable[[Expr], Expr]) -> tirx.PrimFunc:
    """Arguments: X, W, B, a mean, what `inverse` makes 1 / deviation of, [R], Z."""
    vec, dtype = n.vec, n.vec.dtype

    def emit() -> None:
        x = activation("X", n.tiles, n.channels, n.x, vec)
        w, b, mean, spread = (T.arg(k, T.buffer((n.channels,), dtype)) for k in ("W", "B", "MEAN", "SPREAD"))
        residual = activation("R", n.tiles, n.channels, n.residual, vec) if n.residual else None
        z = activation("Z", n.tiles, n.channels, n.z, vec)
        with T.parallel(n.channels) as c:
            _write(n, c, x, residual, z, *scale_shift(vec, w[c], b[c], mean[c], inverse(spread[c])))

    return function(name, emit)


def backward(n: Normalisation, gradients: list[Plane], dx: Plane, keeps_gradient: bool) -> tirx.PrimFunc:
    """Backward of `forward`: g = (sum of incoming gradients) where 0 < z < upper bound; dX, dW, dB, and g for the
    residual.

    Arguments: one activation a gradient, X, [Z if there is a residual and a ReLU], W, B, MEAN, RSTD, dX, dW [C],
    dB [C], [G like z without border].
    Without a residual z is computed again from x, which spares reading z.
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
        buffers = [*incoming, x] + ([z] if z is not None else [])
        planes = [*gradients, n.x] + ([n.z] if z is not None else [])

        with T.parallel(n.channels) as c:
            scale, shift = scale_shift(vec, w[c], b[c], mean[c], rstd[c])
            centre = vec.splat(mean[c])

            def sources(tile: Expr) -> list[Buffer]:
                return [vec.pointer(a, tile, c * p.size + p.at(0, 0), 0) for a, p in zip(buffers, planes, strict=True)]

            def gradient(v: list[Expr]) -> Expr:
                g = tree(v[: len(incoming)])
                if not n.relu:
                    return g
                return masked(vec, g, v[-1] if reads_z else T.Bind(v[-1] * scale + shift), n.upper)

            def terms(v: list[Expr], place: tuple[Expr, Expr, Expr]) -> list[Expr]:
                g = T.Bind(gradient(v))
                if kept is not None:
                    tile, r, q = place
                    T.buffer_store(kept, g, [tile, c * bare.size + r * bare.cols + q, vec.ramp()])
                return [g, g * (v[len(incoming)] - centre)]

            sums = vec.registers(2)
            for register in sums:
                vec.set(register, vec.const(0))
            _sums(n, planes, sources, terms, sums)
            s1, s2 = T.Bind(vec.total(vec.get(sums[0]))), T.Bind(vec.total(vec.get(sums[1])))
            T.buffer_store(db, s1, [c])
            T.buffer_store(dw, s2 * rstd[c], [c])

            def pixels(tile: Expr) -> Callable[[Expr, Expr], tuple[Expr, Expr]]:
                inputs = sources(tile)

                def pixel(r: Expr, q: Expr) -> tuple[Expr, Expr]:
                    v = [T.Bind(vec.load(s, r * p.cols + q)) for s, p in zip(inputs, planes, strict=True)]
                    g = kept[tile, c * bare.size + r * bare.cols + q, vec.ramp()] if kept is not None else gradient(v)
                    return g, v[len(incoming)]

                return pixel

            write_gradient(n, c, out, dx, (s1, s2), (scale, centre, rstd[c]), pixels)

    return function("normalise_backward", emit)


def write_gradient(
    n: Normalisation,
    c: Expr,
    out: Buffer,
    dx: Plane,
    sums: tuple[Expr, Expr],
    channel: tuple[Expr, Expr, Expr],
    pixels: Callable[[Expr], Callable[[Expr, Expr], tuple[Expr, Expr]]],
) -> None:
    """dX = scale * (g - mean(g) - (x - mean) * rstd^2 * mean(g (x - mean))) over a channel, border zeroed.

    sums: of g and of g (x - mean); channel: scale and mean as vectors, rstd; pixels(tile)(row, column): g and x.
    """
    vec, (s1, s2), (scale, centre, rstd) = n.vec, sums, channel
    part = tirx.const(1.0 / n.count, vec.dtype)
    slope = vec.splat(T.Bind(s2 * rstd * rstd * part))
    offset = vec.splat(T.Bind(s1 * part))

    def write(tile: Expr, mask: Callable[[Expr], Expr]) -> None:
        pixel = pixels(tile)
        target = vec.pointer(out, tile, c * dx.size, 0)
        zero_border(vec, target, dx)
        with T.grid(n.x.height, n.x.width) as (r, q):
            g, x = pixel(r, q)
            value = (g - offset - (x - centre) * slope) * scale
            vec.store(target, mask(value), r * dx.cols + q + dx.at(0, 0))

    each_tile(n, write)
