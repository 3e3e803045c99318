"""Dropout over batch tiles on any CPU: the mask comes from the seed and is never stored, forward nor backward."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.dropout_mask import BITS, dropout_bits, dropout_keys, expressions, threshold
from mest_compiler.kernels.dropout import Dropout

from ..emit import Expr, activation, function
from .elementwise import zero_border
from .emit import Vec


def dropout(d: Dropout) -> tirx.PrimFunc:
    """Y = X / (1 - p) where the hash keeps the element, else 0. Arguments: X, SEED [], Y.

    The hash takes an element's number in NCHW, so it drops the same ones whatever the lanes and borders are.
    """
    vec, bits = d.vec, Vec(d.vec.lanes, BITS)
    pixels = d.x.height * d.x.width

    def emit() -> None:
        x = activation("X", d.tiles, d.channels, d.x, vec)
        seed = T.arg("SEED", T.buffer((), BITS))
        y = activation("Y", d.tiles, d.channels, d.y, vec)
        with T.parallel(d.tiles * d.channels) as nc:
            n, c = T.Bind(T.truncdiv(nc, d.channels)), T.Bind(T.truncmod(nc, d.channels))
            keys = tuple(bits.splat(key) for key in dropout_keys(seed[()], d.layer, expressions(_kept)))
            lanes = T.ramp(T.int32(0), d.channels * pixels, vec.lanes)
            examples = T.Bind(tirx.Cast(f"{BITS}x{vec.lanes}", lanes))
            first = T.Bind((n * (vec.lanes * d.channels) + c) * pixels)
            source = vec.pointer(x, n, c * d.x.size + d.x.at(0, 0), 0)
            target = vec.pointer(y, n, c * d.y.size, 0)
            zero_border(vec, target, d.y)
            with T.grid(d.x.height, d.x.width) as (r, q):
                place = tirx.Cast(BITS, first + r * d.x.width + q)
                drawn = dropout_bits(examples + T.broadcast(place, vec.lanes), keys, expressions(_kept, vec.lanes))
                value = vec.load(source, r * d.x.cols + q) * vec.const(1 / (1 - d.p))
                kept = tirx.Select(drawn >= bits.const(threshold(d.p)), value, vec.const(0))
                vec.store(target, kept, r * d.y.cols + q + d.y.at(0, 0))

    return function("dropout", emit)


def _kept(value: Expr) -> Expr:
    """A value in a register. Of one that T.Bind names TVM writes the expression out at every use: two where each of the
    hash's values is used, that is a second of compiling."""
    register = T.alloc_buffer((1,), value.ty.dtype, scope="global")
    T.buffer_store(register, value, [0])
    return register[0]
