"""Sums over the items of a work-group through local memory, in a fixed order: the same bits every time, no atomics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..emit import Buffer, Expr
from .quotient import quotient

BYTES = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class Layout:
    """A work-group of `shares` times `items` work-items; the `count` numbers of each item are summed over `items`.

    Two stages: `parts` items for each sum, then one. The numbers of a sum are a row of local memory, a number longer
    than it need be, so that columns of rows lie in different banks.
    """

    dtype: str
    count: int
    items: int
    shares: int

    @property
    def sums(self) -> int:
        """Of all shares."""
        return self.count * self.shares

    @property
    def threads(self) -> int:
        """Work-items of the work-group."""
        return self.items * self.shares

    @property
    def parts(self) -> int:
        """Partial sums of a sum in the first stage: as many as make both stages take the fewest steps."""

        def steps(parts: int) -> int:
            second = parts * -(-self.sums // self.threads) if parts > 1 else 0
            return -(-self.sums * parts // self.threads) * (self.items // parts) + second

        return min((d for d in range(1, self.items + 1) if self.items % d == 0), key=lambda d: (steps(d), d))

    @property
    def bytes(self) -> int:
        """Local memory it takes."""
        second = self.parts if self.parts > 1 else 0
        return self.sums * (self.items + 1 + second) * BYTES[self.dtype]


@dataclass(frozen=True)
class LocalSums:
    """The memory of a layout, and how it is used."""

    layout: Layout
    first: Buffer
    second: Buffer

    @classmethod
    def make(cls, layout: Layout) -> LocalSums:
        """Allocated where it is called, which must not be in a loop."""
        first = T.alloc_buffer((layout.sums * (layout.items + 1),), layout.dtype, scope="shared")
        second = first
        if layout.parts > 1:
            second = T.alloc_buffer((layout.sums * layout.parts,), layout.dtype, scope="shared")
        return cls(layout, first, second)

    def add_up(
        self, share: Expr, number: Expr, values: Sequence[Expr], put: Callable[[Expr, Expr, Expr], None]
    ) -> None:
        """The sums of item `number` of share `share`'s values and its fellows': put(share, which value, sum), each once
        in some item. Every item of the work-group must come here: there are barriers within."""
        n = self.layout
        for j, value in enumerate(values):
            T.buffer_store(self.first, value, [(share * n.count + j) * (n.items + 1) + number])
        me, total = share * n.items + number, T.alloc_buffer((1,), n.dtype, scope="local")

        def add(memory: Buffer, start: Expr, step: int, count: int) -> None:
            T.buffer_store(total, tirx.const(0, n.dtype), [0])
            with T.serial(count) as i:
                T.buffer_store(total, total[0] + memory[start + i * step], [0])

        if n.parts > 1:
            with turns(n.sums * n.parts, n.threads, me) as i:
                row, part = quotient(i, n.parts, n.sums * n.parts)
                add(self.first, row * (n.items + 1) + part, n.parts, n.items // n.parts)
                T.buffer_store(self.second, total[0], [i])
        with turns(n.sums, n.threads, me) as i:
            if n.parts > 1:
                add(self.second, i * n.parts, 1, n.parts)
            else:
                add(self.first, i * (n.items + 1), 1, n.items)
            put(*quotient(i, n.count, n.sums), total[0])


@contextmanager
def turns(count: int, threads: int, me: Expr) -> Iterator[Expr]:
    """The numbers below `count` that are an item's turn among `threads` items."""
    rounds = -(-count // threads)
    if count == threads:
        yield me
    elif rounds == 1:
        with T.If(me < count), T.Then():
            yield me
    else:
        with T.serial(rounds) as i, T.If(i * threads + me < count), T.Then():
            yield i * threads + me
