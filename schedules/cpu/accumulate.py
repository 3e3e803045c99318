"""Sums of gradients in place on any CPU: of dense weights and of the filled part of compact ones."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..emit import Buffer, Expr
from ..in_place import Count, Numbers, kernel
from .emit import Vec
from .in_chunks import in_chunks


def accumulate(numbers: Numbers, vec: Vec, chunks: int) -> tirx.PrimFunc:
    """A = (0 if FIRST else A) + G. Arguments: A, G; FIRST int32 []; see `in_place.kernel`."""

    def body(tensors: dict[str, Buffer], scalars: dict[str, Buffer], count: Count) -> None:
        a, g = tensors.values()
        first = T.Bind(scalars["FIRST"][()] > 0)
        in_chunks(numbers.most, count, chunks, vec.lanes, lambda start, n: _add(vec, a, g, first, start, n))

    return kernel("accumulate", numbers, vec.dtype, "AG", {"FIRST": ((), "int32")}, body)


def _add(vec: Vec, a: Buffer, g: Buffer, first: Expr, start: Expr, count: Expr) -> None:
    """The first one must not take what stands in `a`, which may be no number."""
    vectors = T.Bind(T.truncdiv(count, vec.lanes))
    with T.serial(vectors) as i:
        at = vec.ramp(start + i * vec.lanes)
        T.buffer_store(a, T.Select(first, vec.const(0), a[at]) + g[at], [at])
    with T.serial(count - vectors * vec.lanes) as i:
        k, zero = start + vectors * vec.lanes + i, tirx.const(0, vec.dtype)
        T.buffer_store(a, T.Select(first, zero, a[k]) + g[k], [k])
