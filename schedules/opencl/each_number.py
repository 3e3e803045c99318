"""Work on the numbers of a tensor whatever its shape: a work-item takes four, the last one what is left over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..emit import Buffer, Expr
from ..in_place import Count
from .emit import QUAD, Vec, cell, launch, number
from .planes import GROUP, when


@dataclass(frozen=True)
class WorkItem:
    """Where a work-item is: reads and writes there, and makes numbers of that width; see `optimizers.base.Math`."""

    read: Callable[[Buffer], Expr]
    write: Callable[[Buffer, Expr], None]
    splat: Callable[[Expr], Expr]
    const: Callable[[float], Expr]

    def sqrt(self, value: Expr) -> Expr:
        """Of each number."""
        return T.sqrt(value)

    def select(self, condition: Expr, yes: Expr, no: Expr) -> Expr:
        """Number by number."""
        return tirx.Select(condition, yes, no)

    def bind(self, value: Expr) -> Expr:
        """Into a variable."""
        return T.Bind(value)


def each_number(vec: Vec, most: int, filled: Count, body: Callable[[WorkItem], None]) -> None:
    """body(item) over the first `filled()` of `most` numbers: by quads, then what is left."""
    items = min(GROUP, max(-(-most // QUAD), 1))

    with launch([max(-(-most // (QUAD * items)), 1)], [items]) as ((block,), (item,)):
        quad = block * items + item
        # Read here, in the kernel: before the launch the host would read it.
        count = most if filled is None else cell(filled())[0]
        with when(True if filled is None and most and most % (QUAD * items) == 0 else (quad + 1) * QUAD <= count):
            body(
                WorkItem(
                    lambda buffer: T.Bind(vec.load(buffer, quad)),
                    lambda buffer, value: vec.store(buffer, value, quad),
                    vec.splat,
                    vec.const,
                )
            )
        if filled is None and most % QUAD == 0:
            return
        for k in range(QUAD - 1):
            at = quad * QUAD + k
            with when(at < count, count < (quad + 1) * QUAD):
                body(
                    WorkItem(
                        lambda buffer, at=at: T.Bind(buffer[at]),
                        lambda buffer, value, at=at: T.buffer_store(buffer, value, [at]),
                        lambda scalar: scalar,
                        lambda value: number(value, vec.dtype),
                    )
                )
