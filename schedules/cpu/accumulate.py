"""Sums of gradients in place on any CPU: of dense weights and of the filled part of compact ones."""

from __future__ import annotations

from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..emit import Buffer, Expr, Index, function
from .emit import Vec
from .in_chunks import in_chunks


def _add(vec: Vec, a: Buffer, g: Buffer, first: Expr, start: Expr, count: Expr) -> None:
    """a = (0 if first else a) + g. The first one must not read `a`: what stands there may be no number."""
    vectors = T.Bind(T.truncdiv(count, vec.lanes))
    with T.serial(vectors) as i:
        at = vec.ramp(start + i * vec.lanes)
        T.buffer_store(a, T.Select(first, vec.const(0), a[at]) + g[at], [at])
    with T.serial(count - vectors * vec.lanes) as i:
        k, zero = start + vectors * vec.lanes + i, tirx.const(0, vec.dtype)
        T.buffer_store(a, T.Select(first, zero, a[k]) + g[k], [k])


def dense(shape: tuple[int, ...], vec: Vec, chunks: int) -> tirx.PrimFunc:
    """A = (0 if FIRST else A) + G, whole tensors. Arguments: A, G [shape], FIRST int32 []."""
    size = prod(shape)

    def emit() -> None:
        a, g = (T.arg(k, T.buffer(shape, vec.dtype)) for k in "AG")
        flag = T.arg("FIRST", T.buffer((), "int32"))
        a, g = (T.decl_buffer((max(size, 1),), vec.dtype, data=b.data) for b in (a, g))
        first, count = T.Bind(flag[()] > 0), T.int32(size)
        in_chunks(size, count, chunks, vec.lanes, lambda start, n: _add(vec, a, g, first, start, n))

    return function("accumulate", emit)


def compact(capacity: int, unit_size: int, entries: str, vec: Vec, chunks: int) -> tirx.PrimFunc:
    """The same on the filled part of compact values.

    Arguments: A, G [capacity, unit_size], FIRST int32 [], ENTRIES [1] of the integer type `entries`.
    """
    size = capacity * unit_size

    def emit() -> None:
        a, g = (T.arg(k, T.buffer((capacity, unit_size), vec.dtype)) for k in "AG")
        flag = T.arg("FIRST", T.buffer((), "int32"))
        filled = Index(T.arg("ENTRIES", T.buffer((1,), entries)))
        a, g = (T.decl_buffer((max(size, 1),), vec.dtype, data=b.data) for b in (a, g))
        first, count = T.Bind(flag[()] > 0), T.Bind(filled[0] * unit_size)
        in_chunks(size, count, chunks, vec.lanes, lambda start, n: _add(vec, a, g, first, start, n))

    return function("accumulate_compact", emit)
