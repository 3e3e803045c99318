"""SGD with momentum, and sums of gradients, in place on OpenCL devices: dense and on the filled part of compact values.

A work-item takes four numbers; the last one takes what is left over.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.sgd import Sgd

from ..emit import Buffer, Expr, Index, function
from .emit import QUAD, Vec, cell, flat, launch, number
from .planes import GROUP, when

At = Callable[[Buffer], Expr]  # reads a buffer at the work-item's place
Body = Callable[[At, Callable[[Buffer, Expr], None], Callable[[Expr], Expr], Callable[[float], Expr]], None]


def _each(vec: Vec, most: int, filled: Callable[[], Expr] | None, body: Body) -> None:
    """body(read, write, splat, constant) over the first `filled()` of `most` numbers (None: over all of them): by
    quads, then what is left."""
    items = min(GROUP, max(-(-most // QUAD), 1))

    with launch([max(-(-most // (QUAD * items)), 1)], [items]) as ((block,), (item,)):
        quad = block * items + item
        # Read here, in the kernel: before the launch the host would read it.
        count = most if filled is None else cell(filled())[0]
        with when(True if filled is None and most and most % (QUAD * items) == 0 else (quad + 1) * QUAD <= count):
            body(
                lambda buffer: T.Bind(vec.load(buffer, quad)),
                lambda buffer, value: vec.store(buffer, value, quad),
                vec.splat,
                vec.const,
            )
        if filled is None and most % QUAD == 0:
            return
        for k in range(QUAD - 1):
            place = quad * QUAD + k
            with when(place < count, count < (quad + 1) * QUAD):
                body(
                    lambda buffer, place=place: T.Bind(buffer[place]),
                    lambda buffer, value, place=place: T.buffer_store(buffer, value, [place]),
                    lambda scalar: scalar,
                    lambda value: number(value, vec.dtype),
                )


def _flat(names: str, shape: tuple[int, ...], dtype: str) -> list[Buffer]:
    return [T.arg(k, T.buffer(shape, dtype)) for k in names]


def _update(rule: Sgd, w: Buffer, v: Buffer, g: Buffer, lr: Buffer) -> Body:
    def body(read, write, splat, constant) -> None:
        old = read(w)
        direction, velocity = rule.update(old, read(v), read(g), constant)
        write(v, velocity)
        write(w, old - splat(lr[()]) * direction)

    return body


def dense(rule: Sgd, shape: tuple[int, ...], vec: Vec, chunks: int) -> tirx.PrimFunc:
    """Whole tensors. Arguments: W, V, G [shape], LR []. `chunks` is for other kinds of devices."""
    size = prod(shape)

    def emit() -> None:
        tensors = _flat("WVG", shape, vec.dtype)
        lr = T.arg("LR", T.buffer((), vec.dtype))
        _each(vec, size, None, _update(rule, *(flat(b) for b in tensors), lr))

    return function("sgd", emit)


def compact(rule: Sgd, capacity: int, unit_size: int, entries: str, vec: Vec, chunks: int) -> tirx.PrimFunc:
    """The filled part of compact values.

    Arguments: W, V, G [capacity, unit_size], LR [], ENTRIES [1] of the integer type `entries`.
    """
    size = capacity * unit_size

    def emit() -> None:
        tensors = _flat("WVG", (capacity, unit_size), vec.dtype)
        lr = T.arg("LR", T.buffer((), vec.dtype))
        filled = Index(T.arg("ENTRIES", T.buffer((1,), entries)))
        _each(vec, size, lambda: filled[0] * unit_size, _update(rule, *(flat(b) for b in tensors), lr))

    return function("sgd_compact", emit)


def _add(scale: float, a: Buffer, g: Buffer, flag: Buffer) -> Body:
    """a = (0 if first else a) + scale * g. The first one must not read `a`: what stands there may be no number."""

    def body(read, write, splat, constant) -> None:
        with T.If(flag[()] > 0):
            with T.Then():
                write(a, read(g) * constant(scale))
            with T.Else():
                write(a, read(a) + read(g) * constant(scale))

    return body


def accumulate_dense(scale: float, shape: tuple[int, ...], vec: Vec, chunks: int) -> tirx.PrimFunc:
    """A = (0 if FIRST else A) + scale * G, whole tensors. Arguments: A, G [shape], FIRST int32 []."""
    size = prod(shape)

    def emit() -> None:
        tensors = _flat("AG", shape, vec.dtype)
        flag = T.arg("FIRST", T.buffer((), "int32"))
        _each(vec, size, None, _add(scale, *(flat(b) for b in tensors), flag))

    return function("accumulate", emit)


def accumulate_compact(
    scale: float, capacity: int, unit_size: int, entries: str, vec: Vec, chunks: int
) -> tirx.PrimFunc:
    """The same on the filled part of compact values.

    Arguments: A, G [capacity, unit_size], FIRST int32 [], ENTRIES [1] of the integer type `entries`.
    """
    size = capacity * unit_size

    def emit() -> None:
        tensors = _flat("AG", (capacity, unit_size), vec.dtype)
        flag = T.arg("FIRST", T.buffer((), "int32"))
        filled = Index(T.arg("ENTRIES", T.buffer((1,), entries)))
        _each(vec, size, lambda: filled[0] * unit_size, _add(scale, *(flat(b) for b in tensors), flag))

    return function("accumulate_compact", emit)
