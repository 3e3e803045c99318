"""Batch norm whose sums were taken elsewhere (see `epilogue`): one pass over memory forward, and one backward."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.fusion import SUMS
from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.normalisation import Normalisation

from ..emit import Buffer, Expr, activation, function
from .normalise import each_tile, training, write_gradient


def _combined(n: Normalisation, c: Expr, x: Buffer, sums: Buffer) -> tuple[Expr, Expr]:
    """(mean, variance) of a channel from the shifted sums of its planes, by the parallel formula of Chan et al. (1979).

    Every lane of every tile is one plane of n pixels with mean K + S1 / n and squared deviations S2 - S1^2 / n. Means
    are counted from the first plane's K, so that all that is added up is of the size of the deviations.
    """
    vec, pixels = n.vec, n.x.height * n.x.width
    share = vec.const(1.0 / pixels)
    origin = T.Bind(x[0, c * n.x.size + n.x.at(0, 0), 0])
    base = vec.splat(origin)

    def plane(tile: Expr) -> tuple[Expr, Expr]:
        """(its mean, less the origin, and squared deviations from it) of each lane."""
        shift = vec.load(vec.pointer(x, tile, c * n.x.size + n.x.at(0, 0), 0), 0)
        pair = vec.pointer(sums, tile, c * SUMS.size, 0)
        first = T.Bind(vec.load(pair, 0))
        squares = vec.load(pair, 1) - first * first * share
        # Rounding may leave less than nothing of a plane that is nearly constant.
        return T.Bind(shift - base + first * share), T.Bind(T.max(vec.const(0), squares))

    def summed(term: Callable[[Expr, Expr], Expr]) -> Expr:
        (total,) = vec.registers(1)
        vec.set(total, vec.const(0))
        each_tile(n, lambda tile, mask: vec.set(total, vec.get(total) + mask(term(*plane(tile)))))
        return vec.total(vec.get(total))

    away = T.Bind(summed(lambda mean, _: mean) * tirx.const(1.0 / n.batch, vec.dtype))
    centre = vec.splat(away)

    def deviations(mean: Expr, squares: Expr) -> Expr:
        d = T.Bind(mean - centre)
        return squares + vec.const(pixels) * (d * d)

    return T.Bind(origin + away), T.Bind(summed(deviations) * tirx.const(1.0 / n.count, vec.dtype))


def forward(n: Normalisation, momentum: float, eps: float) -> tirx.PrimFunc:
    """As `normalise.forward`, with the SUMS that `fusion.ForwardSums` took of X.

    Arguments: X, W, B, RM, RV, [R], SUMS, Z, MEAN, RSTD.
    """
    return training("normalise_from_sums", n, momentum, eps, _combined, SUMS)


def statistics(n: Normalisation, momentum: float, eps: float) -> tirx.PrimFunc:
    """What `forward` does but for Z. Arguments: X, RM, RV, SUMS, MEAN, RSTD."""
    return training("batch_statistics_from_sums", n, momentum, eps, _combined, SUMS, writes=False)


def backward(n: Normalisation, gradient: Plane, dx: Plane) -> tirx.PrimFunc:
    """As `normalise.backward` without a ReLU of its own, with the G and SUMS that `fusion.BackwardSums` left.

    Arguments: G, X, W, MEAN, RSTD, SUMS, dX, dW [C], dB [C].
    """
    vec, dtype = n.vec, n.vec.dtype

    def emit() -> None:
        incoming = activation("G", n.tiles, n.channels, gradient, vec)
        x = activation("X", n.tiles, n.channels, n.x, vec)
        w, mean, rstd = (T.arg(k, T.buffer((n.channels,), dtype)) for k in ("W", "MEAN", "RSTD"))
        sums = activation("SUMS", n.tiles, n.channels, SUMS, vec)
        out = activation("DX", n.tiles, n.channels, dx, vec)
        dw, db = (T.arg(k, T.buffer((n.channels,), dtype)) for k in ("DW", "DB"))

        with T.parallel(n.channels) as c:
            totals = vec.registers(SUMS.size)
            for register in totals:
                vec.set(register, vec.const(0))

            def add(tile: Expr, mask: Callable[[Expr], Expr]) -> None:
                pair = vec.pointer(sums, tile, c * SUMS.size, 0)
                for i, register in enumerate(totals):
                    vec.set(register, vec.get(register) + mask(vec.load(pair, i)))

            each_tile(n, add)
            s1, s2 = (T.Bind(vec.total(vec.get(register))) for register in totals)
            T.buffer_store(db, s1, [c])
            T.buffer_store(dw, s2 * rstd[c], [c])

            def pixels(tile: Expr) -> Callable[[Expr, Expr], tuple[Expr, Expr]]:
                inputs = [
                    (vec.pointer(a, tile, c * p.size + p.at(0, 0), 0), p) for a, p in ((incoming, gradient), (x, n.x))
                ]
                return lambda r, q: tuple(T.Bind(vec.load(source, r * p.cols + q)) for source, p in inputs)

            channel = vec.splat(T.Bind(w[c] * rstd[c])), vec.splat(mean[c]), rstd[c]
            write_gradient(n, c, out, dx, (s1, s2), channel, pixels)

    return function("normalise_backward_from_sums", emit)
