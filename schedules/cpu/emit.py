"""Small pieces of tensor IR that every CPU generator is written with: vectors, register tiles, pointers, tile splits.

They run inside an IRBuilder frame and append to it, so Python loops unroll and Python lists are register arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from tvm import DataType, tirx
from tvm.script.ir_builder import tirx as T

from ..emit import Buffer, Expr

CACHE_LINE = 64  # bytes, on every CPU that is compiled for


@dataclass(frozen=True)
class Vec:
    """Vectors of `lanes` numbers of one dtype: one machine register each."""

    lanes: int
    dtype: str

    def ramp(self, start: Expr = 0) -> Expr:
        """Consecutive element indices of one vector."""
        return T.ramp(T.int32(start) if isinstance(start, int) else start, 1, self.lanes)

    def const(self, value: float) -> Expr:
        """A vector of one constant."""
        return T.broadcast(tirx.const(value, self.dtype), self.lanes)

    def splat(self, scalar: Expr) -> Expr:
        """A vector of one scalar, bound once."""
        return T.Bind(T.broadcast(scalar, self.lanes))

    def registers(self, count: int) -> list[Buffer]:
        """Vector registers: an allocation below 1024 bytes of scope "global" becomes an alloca, which LLVM promotes."""
        return [T.alloc_buffer((self.lanes,), self.dtype, scope="global") for _ in range(count)]

    def get(self, register: Buffer) -> Expr:
        """Value of a register."""
        return register[self.ramp()]

    def set(self, register: Buffer, value: Expr) -> None:
        """Write a register."""
        T.buffer_store(register, value, [self.ramp()])

    def fma(self, register: Buffer, a: Expr, b: Expr) -> None:
        """register += a * b."""
        self.set(register, self.get(register) + a * b)

    def at_least(self, value: Expr, bound: Expr) -> Expr:
        """The larger one; a value that is no number stays so, and a diverged loss shows it."""
        return T.max(bound, value)

    def at_most(self, value: Expr, bound: Expr) -> Expr:
        """The smaller one; a value that is no number stays so."""
        return T.min(bound, value)

    def pointer(self, buffer: Buffer, *index: Expr) -> Buffer:
        """Flat view from an element on: constant displacements from it leave no index arithmetic in a loop."""
        return T.decl_buffer((1 << 30,), self.dtype, data=T.Bind(T.address_of(buffer[index])))

    def load(self, pointer: Buffer, pixel: Expr) -> Expr:
        """Vector number `pixel` behind a pointer."""
        return pointer[self.ramp(pixel * self.lanes)]

    def store(self, pointer: Buffer, value: Expr, pixel: Expr) -> None:
        """Write vector number `pixel` behind a pointer."""
        T.buffer_store(pointer, value, [self.ramp(pixel * self.lanes)])

    @property
    def bytes(self) -> int:
        """Of one vector."""
        return self.lanes * DataType(self.dtype).itemsize

    @property
    def per_line(self) -> int:
        """Whole vectors in a line of the caches, one at least."""
        return max(1, CACHE_LINE // self.bytes)

    def prefetch(self, pointer: Buffer, pixel: Expr, write: bool = False, soon: bool = True) -> None:
        """Asks for vector number `pixel` behind a pointer, which will be read (or written); not `soon`: into the
        second-level cache only."""
        where = T.address_of(pointer[pixel * self.lanes])
        # Its arguments: to be written, how close to keep it (3: closest), and that it is data.
        close = T.int32(3 if soon else 2)
        T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", where, T.int32(write), close, T.int32(1)))

    def total(self, value: Expr) -> Expr:
        """Sum over the lanes, as a tree of halves (LLVM may not reassociate a plain loop)."""
        lanes = self.lanes
        while lanes > 2:
            lanes //= 2
            half = f"{self.dtype}x{lanes}"
            value = T.Bind(T.vectorlow(half, value) + T.vectorhigh(half, value))
        # Halving further would give a vector of one lane, which LLVM does not take for a scalar.
        return T.Bind(T.Shuffle([value], [0]) + T.Shuffle([value], [1]))


def flat_any(handle: Expr, width: int, dtype: str) -> Buffer:
    """An argument of any number of rows of `width` values, as one dimension."""
    whole = T.match_buffer(handle, (T.int32(), width), dtype)
    return T.decl_buffer((1 << 30,), dtype, data=whole.data)


def flat(buffer: Buffer) -> Buffer:
    """The same memory as one dimension."""
    return T.decl_buffer((prod(int(n) for n in buffer.shape),), buffer.dtype, data=buffer.data)


def shared(total: Expr, chunks: int, body: Callable[[Expr, Expr, Expr], None]) -> None:
    """body(first, count, chunk) in parallel over `chunks` even parts of 0..total-1."""
    with T.parallel(chunks) as chunk:
        first = T.Bind(T.truncdiv(chunk * total, chunks))
        body(first, T.Bind(T.truncdiv((chunk + 1) * total, chunks) - first), chunk)
