"""Work on the numbers of a tensor whatever its shape, shared between threads where it is worth it."""

from __future__ import annotations

from collections.abc import Callable

from tvm.script.ir_builder import tirx as T

from ..emit import Expr
from ..in_place import Count

PARALLEL_FROM = 1 << 15  # elements; below, starting the threads costs more than it saves


def in_chunks(most: int, count: Count, chunks: int, lanes: int, body: Callable[[Expr, Expr], None]) -> None:
    """body(start, how many) over whole-vector chunks, in parallel, or over all at once where even `most` are few."""
    count = T.int32(most) if count is None else T.Bind(count())
    if most < PARALLEL_FROM:
        body(T.int32(0), count)
        return
    size = T.Bind(T.truncdiv(count + (chunks * lanes - 1), chunks * lanes) * lanes)
    with T.parallel(chunks) as c:
        start = T.Bind(T.min(c * size, count))
        body(start, T.Bind(T.min(size, count - start)))
