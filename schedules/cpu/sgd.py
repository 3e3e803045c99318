"""SGD with momentum, and sums of gradients, in place on any CPU: dense and on the filled part of compact values."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.sgd import Sgd

from ..emit import Buffer, Expr, Index, function
from .emit import Vec

PARALLEL_FROM = 1 << 15  # elements; below, starting the threads costs more than it saves


def _run(rule: Sgd, vec: Vec, w: Buffer, v: Buffer, g: Buffer, lr: Buffer, start: Expr, count: Expr) -> None:
    """Vectors first, then what is left one by one."""
    step, vectors = vec.splat(lr[()]), T.Bind(T.truncdiv(count, vec.lanes))
    with T.serial(vectors) as i:
        at = vec.ramp(start + i * vec.lanes)
        old = T.Bind(w[at])
        direction, velocity = rule.update(old, v[at], g[at], vec.const)
        T.buffer_store(v, velocity, [at])
        T.buffer_store(w, old - step * direction, [at])
    with T.serial(count - vectors * vec.lanes) as i:
        k = start + vectors * vec.lanes + i
        old = T.Bind(w[k])
        direction, velocity = rule.update(old, v[k], g[k], lambda value: tirx.const(value, vec.dtype))
        T.buffer_store(v, velocity, [k])
        T.buffer_store(w, old - lr[()] * direction, [k])


def _shared(most: int, count: Expr, chunks: int, lanes: int, body: Callable[[Expr, Expr], None]) -> None:
    """body(start, count) over whole-vector chunks, in parallel, or over all at once where even `most` are few."""
    if most < PARALLEL_FROM:
        body(T.int32(0), count)
        return
    size = T.Bind(T.truncdiv(count + (chunks * lanes - 1), chunks * lanes) * lanes)
    with T.parallel(chunks) as c:
        start = T.Bind(T.min(c * size, count))
        body(start, T.Bind(T.min(size, count - start)))


def dense(rule: Sgd, shape: tuple[int, ...], vec: Vec, chunks: int) -> tirx.PrimFunc:
    """Whole tensors. Arguments: W, V, G [shape], LR []."""
    size = prod(shape)

    def emit() -> None:
        w, v, g = (T.arg(k, T.buffer(shape, vec.dtype)) for k in "WVG")
        lr = T.arg("LR", T.buffer((), vec.dtype))
        w, v, g = (T.decl_buffer((max(size, 1),), vec.dtype, data=b.data) for b in (w, v, g))
        count = T.int32(size)
        _shared(size, count, chunks, vec.lanes, lambda start, n: _run(rule, vec, w, v, g, lr, start, n))

    return function("sgd", emit)


def compact(rule: Sgd, capacity: int, unit_size: int, entries: str, vec: Vec, chunks: int) -> tirx.PrimFunc:
    """The filled part of compact values.

    Arguments: W, V, G [capacity, unit_size], LR [], ENTRIES [1] of the integer type `entries`.
    """
    size = capacity * unit_size

    def emit() -> None:
        w, v, g = (T.arg(k, T.buffer((capacity, unit_size), vec.dtype)) for k in "WVG")
        lr = T.arg("LR", T.buffer((), vec.dtype))
        filled = Index(T.arg("ENTRIES", T.buffer((1,), entries)))
        w, v, g = (T.decl_buffer((max(size, 1),), vec.dtype, data=b.data) for b in (w, v, g))
        count = T.Bind(filled[0] * unit_size)
        _shared(size, count, chunks, vec.lanes, lambda start, n: _run(rule, vec, w, v, g, lr, start, n))

    return function("sgd_compact", emit)


def _add(scale: float, vec: Vec, a: Buffer, g: Buffer, first: Expr, start: Expr, count: Expr) -> None:
    """a = (0 if first else a) + scale * g. The first one must not read `a`: what stands there may be no number."""
    vectors = T.Bind(T.truncdiv(count, vec.lanes))
    with T.serial(vectors) as i:
        at = vec.ramp(start + i * vec.lanes)
        T.buffer_store(a, T.Select(first, vec.const(0), a[at]) + g[at] * vec.const(scale), [at])
    with T.serial(count - vectors * vec.lanes) as i:
        k, zero = start + vectors * vec.lanes + i, tirx.const(0, vec.dtype)
        T.buffer_store(a, T.Select(first, zero, a[k]) + g[k] * tirx.const(scale, vec.dtype), [k])


def accumulate_dense(scale: float, shape: tuple[int, ...], vec: Vec, chunks: int) -> tirx.PrimFunc:
    """A = (0 if FIRST else A) + scale * G, whole tensors. Arguments: A, G [shape], FIRST int32 []."""
    size = prod(shape)

    def emit() -> None:
        a, g = (T.arg(k, T.buffer(shape, vec.dtype)) for k in "AG")
        flag = T.arg("FIRST", T.buffer((), "int32"))
        a, g = (T.decl_buffer((max(size, 1),), vec.dtype, data=b.data) for b in (a, g))
        first, count = T.Bind(flag[()] > 0), T.int32(size)
        _shared(size, count, chunks, vec.lanes, lambda start, n: _add(scale, vec, a, g, first, start, n))

    return function("accumulate", emit)


def accumulate_compact(
    scale: float, capacity: int, unit_size: int, entries: str, vec: Vec, chunks: int
) -> tirx.PrimFunc:
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
        _shared(size, count, chunks, vec.lanes, lambda start, n: _add(scale, vec, a, g, first, start, n))

    return function("accumulate_compact", emit)
