"""Activations that wait for backward in half the memory: float32 rounded to bfloat16 and back, on any CPU.

A bfloat16 is the upper half of a float32, so both ways are shifts of bits, and TVM sees it as uint16. No floating-point
arithmetic touches a number: denormals stay what they are even where the CPU flushes them.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..emit import Expr, function
from .emit import Vec

STORED = "uint16"
"""The dtype of a buffer that holds bfloat16."""
_BITS = "uint32"
_HALF = 16  # bits of a bfloat16, and those below it in a float32
_ALMOST_A_HALF = 0x7FFF
_INFINITY, _WITHOUT_SIGN = 0x7F800000, 0x7FFFFFFF
_QUIET = 0x40  # the highest bit of a bfloat16's fraction: set, a NaN stays one when its other bits are cut off


def rounded(value: Expr, lanes: int) -> Expr:
    """bfloat16 bits (uint16) of a float32 vector: to nearest, halves to even, a NaN to a quiet one of its sign."""
    bits = Vec(lanes, _BITS)
    whole = T.Bind(tirx.reinterpret(f"{_BITS}x{lanes}", value))
    upper = T.Bind(whole >> bits.const(_HALF))
    # What is cut off, and almost a half more: it carries above a half, and at a half where the last bit is odd. Both
    # halves are kept apart, because TVM tells LLVM that 32-bit sums do not overflow, and that of a NaN would.
    lower = (whole & bits.const((1 << _HALF) - 1)) + (upper & bits.const(1)) + bits.const(_ALMOST_A_HALF)
    is_nan = (whole & bits.const(_WITHOUT_SIGN)) > bits.const(_INFINITY)
    chosen = tirx.Select(is_nan, upper | bits.const(_QUIET), upper + (lower >> bits.const(_HALF)))
    return tirx.Cast(f"{STORED}x{lanes}", chosen)


def widened(stored: Expr, lanes: int) -> Expr:
    """The float32 vector that bfloat16 bits (uint16) stand for, exactly."""
    bits = tirx.Cast(f"{_BITS}x{lanes}", stored) << Vec(lanes, _BITS).const(_HALF)
    return tirx.reinterpret(f"float32x{lanes}", bits)


def pack(tiles: int, size: int, vec: Vec) -> tirx.PrimFunc:
    """float32 -> bfloat16. Arguments: X float32 [tiles, size, L], Y uint16 [tiles, size, L]."""
    stored = Vec(vec.lanes, STORED)

    def emit() -> None:
        x = T.arg("X", T.buffer((tiles, size, vec.lanes), vec.dtype))
        y = T.arg("Y", T.buffer((tiles, size, vec.lanes), STORED))
        with T.parallel(tiles) as n:
            source, target = vec.pointer(x, n, 0, 0), stored.pointer(y, n, 0, 0)
            with T.serial(size) as i:
                stored.store(target, rounded(T.Bind(vec.load(source, i)), vec.lanes), i)

    return function("pack", emit)


def unpack(tiles: int, size: int, vec: Vec) -> tirx.PrimFunc:
    """bfloat16 -> float32. Arguments: X uint16 [tiles, size, L], Y float32 [tiles, size, L]."""
    stored = Vec(vec.lanes, STORED)

    def emit() -> None:
        x = T.arg("X", T.buffer((tiles, size, vec.lanes), STORED))
        y = T.arg("Y", T.buffer((tiles, size, vec.lanes), vec.dtype))
        with T.parallel(tiles) as n:
            source, target = stored.pointer(x, n, 0, 0), vec.pointer(y, n, 0, 0)
            with T.serial(size) as i:
                vec.store(target, widened(stored.load(source, i), vec.lanes), i)

    return function("unpack", emit)
