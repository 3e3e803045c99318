"""Sums of gradients in place on OpenCL devices: of dense weights and of the filled part of compact ones."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..emit import Buffer, Index, function
from .each_number import Place, each_number
from .emit import Vec, flat


def _add(a: Buffer, g: Buffer, flag: Buffer) -> Callable[[Place], None]:
    """a = (0 if first else a) + g. The first one must not read `a`: what stands there may be no number."""
    a, g = flat(a), flat(g)

    def body(place: Place) -> None:
        with T.If(flag[()] > 0):
            with T.Then():
                place.write(a, place.read(g))
            with T.Else():
                place.write(a, place.read(a) + place.read(g))

    return body


def dense(shape: tuple[int, ...], vec: Vec, chunks: int) -> tirx.PrimFunc:
    """A = (0 if FIRST else A) + G, whole tensors. Arguments: A, G [shape], FIRST int32 []. `chunks` is for
    other kinds of devices."""

    def emit() -> None:
        a, g = (T.arg(k, T.buffer(shape, vec.dtype)) for k in "AG")
        flag = T.arg("FIRST", T.buffer((), "int32"))
        each_number(vec, prod(shape), None, _add(a, g, flag))

    return function("accumulate", emit)


def compact(capacity: int, unit_size: int, entries: str, vec: Vec, chunks: int) -> tirx.PrimFunc:
    """The same on the filled part of compact values.

    Arguments: A, G [capacity, unit_size], FIRST int32 [], ENTRIES [1] of the integer type `entries`.
    """

    def emit() -> None:
        a, g = (T.arg(k, T.buffer((capacity, unit_size), vec.dtype)) for k in "AG")
        flag = T.arg("FIRST", T.buffer((), "int32"))
        filled = Index(T.arg("ENTRIES", T.buffer((1,), entries)))
        each_number(vec, capacity * unit_size, lambda: filled[0] * unit_size, _add(a, g, flag))

    return function("accumulate_compact", emit)
