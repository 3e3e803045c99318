"""Which elements a dropout keeps: a hash of (seed of the step, number of the layer, number of the element).

Nothing is stored between forward and backward, and an element's fate depends neither on the layout nor on the number
of threads. The hash is two rounds of `lowbias32` (Wellons, 2018, "Prospecting for hash functions"), each with a key of
its own: with one round, masks of two keys would be the same one with its blocks in another order. The same lines serve
NumPy, plain definitions and vector kernels, which differ in their `Arithmetic`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm import tirx

BITS = "uint32"
_GOLDEN = 0x9E3779B9  # 2^32 by the golden ratio: neighbouring layers get distant keys
_MULTIPLIERS = ((16, 0x7FEB352D), (15, 0x846CA68B))
_LAST_SHIFT = 16

Bits = Any  # unsigned 32-bit: a NumPy array, a tirx expression or a vector of them


@dataclass(frozen=True)
class Arithmetic:
    """How 32 unsigned bits are computed with: a constant, a product modulo 2^32, and a name for a value that is used
    twice.
    """

    constant: Callable[[int], Bits]
    times: Callable[[Bits, int], Bits]
    bind: Callable[[Bits], Bits]


def expressions(bind: Callable[[Bits], Bits], lanes: int = 1) -> Arithmetic:
    """Arithmetic of tirx expressions, or of vectors of `lanes`.

    TVM tells LLVM that 32-bit products do not overflow, so they are taken in 64 bits (LLVM narrows them again).
    """
    suffix = "" if lanes == 1 else f"x{lanes}"

    def constant(value: int, dtype: str = BITS) -> Bits:
        scalar = tirx.const(value, dtype)
        return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)

    def times(x: Bits, factor: int) -> Bits:
        return tirx.Cast(BITS + suffix, tirx.Cast("uint64" + suffix, x) * constant(factor, "uint64"))

    return Arithmetic(constant, times, bind)


ARRAYS = Arithmetic(np.uint32, lambda x, factor: x * np.uint32(factor), lambda x: x)


def mix(x: Bits, of: Arithmetic) -> Bits:
    """lowbias32: every bit of the result depends on every bit of x."""
    for shift, factor in _MULTIPLIERS:
        x = of.bind(of.times(x ^ (x >> of.constant(shift)), factor))
    return x ^ (x >> of.constant(_LAST_SHIFT))


def dropout_keys(seed: Bits, layer: int, of: Arithmetic) -> tuple[Bits, Bits]:
    """The keys of a layer's two rounds in the step with this seed."""
    first = of.bind(mix(of.bind(seed ^ of.constant(layer * _GOLDEN % 2**32)), of))
    return first, of.bind(mix(of.bind(first ^ of.constant(_GOLDEN)), of))


def dropout_bits(index: Bits, keys: tuple[Bits, Bits], of: Arithmetic) -> Bits:
    """32 random bits for the element of this number (row-major in NCHW)."""
    once = of.bind(mix(of.bind(index ^ keys[0]), of))
    return of.bind(mix(of.bind(once ^ keys[1]), of))


def threshold(p: float) -> int:
    """An element is kept if its bits are at least this."""
    return min(round(p * 2**32), 2**32 - 1)


def keep(shape: Sequence[int], seed: int, layer: int, p: float) -> np.ndarray:
    """bool mask of this shape: what a dropout with probability `p` keeps in the step with `seed`."""
    keys = dropout_keys(np.array([seed], np.uint32), layer, ARRAYS)
    bits = dropout_bits(np.arange(prod(shape), dtype=np.uint32), keys, ARRAYS)
    return (bits >= np.uint32(threshold(p))).reshape(shape)
