"""Dropout on OpenCL devices: the mask comes from the seed and is never stored, forward nor backward."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.dropout_mask import BITS, Arithmetic, dropout_bits, dropout_keys, threshold
from mest_compiler.kernels.dropout import Dropout

from ..emit import Expr, activation, function
from .emit import QUAD, Vec, cell
from .planes import image, over_pixels


def _quads(bits: Vec) -> Arithmetic:
    """32-bit numbers in quads: OpenCL's products are taken modulo 2^32."""

    def constant(value: int) -> Expr:
        return T.broadcast(tirx.const(value, BITS), QUAD)

    def bind(value: Expr) -> Expr:
        (register,) = bits.registers(1)
        bits.set(register, value)
        return bits.get(register)

    return Arithmetic(constant, lambda x, factor: x * constant(factor), bind)


_NUMBERS = Arithmetic(
    lambda value: tirx.const(value, BITS),
    lambda x, factor: x * tirx.const(factor, BITS),
    lambda value: cell(value, BITS)[0],
)


def dropout(d: Dropout) -> tirx.PrimFunc:
    """Y = X / (1 - p) where the hash keeps the element, else 0. Arguments: X, SEED [], Y.

    The hash takes an element's number in NCHW, so it drops the same ones whatever the lanes and borders are.
    """
    vec, bits = d.vec, Vec(d.vec.lanes, BITS)
    pixels = d.x.height * d.x.width
    example = d.channels * pixels  # numbers of an example

    def emit() -> None:
        x = activation("X", d.tiles, d.channels, d.x, vec)
        seed = T.arg("SEED", T.buffer((), BITS))
        y = activation("Y", d.tiles, d.channels, d.y, vec)

        def items(lane: Expr):
            source, target = image(vec, x, d.x, lane), image(vec, y, d.y, lane)
            keys = tuple(bits.splat(key) for key in dropout_keys(seed[()], d.layer, _NUMBERS))

            def pixel(n: Expr, pixel: Expr) -> None:
                tile = T.floordiv(n, d.channels)
                first = (tile * vec.lanes + lane * QUAD) * example + (n - tile * d.channels) * pixels + pixel
                element = _quads(bits).bind(tirx.Cast(f"{BITS}x{QUAD}", T.ramp(first, example, QUAD)))
                drawn = dropout_bits(element, keys, _quads(bits))
                value = source.load(n, pixel) * vec.const(1 / (1 - d.p))
                kept = tirx.Select(drawn >= _quads(bits).constant(threshold(d.p)), value, vec.const(0))
                target.store(kept, n, pixel)

            return pixel, [target]

        over_pixels(vec, d.tiles * d.channels, d.x, items)

    return function("dropout", emit)
