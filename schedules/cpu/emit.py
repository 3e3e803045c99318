"""Small pieces of tensor IR that every CPU generator is written with: vectors, register tiles, pointers, tile splits.

They run inside an IRBuilder frame and append to it, so Python loops unroll and Python lists are register arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane

OPAQUE = 8  # TVM's TOpPattern kOpaque

Expr = Any  # a tirx.PrimExpr or a Python number
Buffer = Any  # a tirx.Buffer


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

    def pointer(self, buffer: Buffer, *index: Expr) -> Buffer:
        """Flat view from an element on: constant displacements from it leave no index arithmetic in a loop."""
        return T.decl_buffer((1 << 30,), self.dtype, data=T.Bind(T.address_of(buffer[index])))

    def load(self, pointer: Buffer, pixel: Expr) -> Expr:
        """Vector number `pixel` behind a pointer."""
        return pointer[self.ramp(pixel * self.lanes)]

    def store(self, pointer: Buffer, value: Expr, pixel: Expr) -> None:
        """Write vector number `pixel` behind a pointer."""
        T.buffer_store(pointer, value, [self.ramp(pixel * self.lanes)])

    def total(self, value: Expr) -> Expr:
        """Sum over the lanes, as a tree of halves (LLVM may not reassociate a plain loop)."""
        lanes = self.lanes
        while lanes > 2:
            lanes //= 2
            half = f"{self.dtype}x{lanes}"
            value = T.Bind(T.vectorlow(half, value) + T.vectorhigh(half, value))
        # Halving further would give a vector of one lane, which LLVM does not take for a scalar.
        return T.Bind(T.Shuffle([value], [0]) + T.Shuffle([value], [1]))


def activation(name: str, tiles: int, planes: int, plane: Plane, vec: Vec) -> Buffer:
    """Argument that holds batch tiles [tiles, planes, rows, cols, L], its planes flattened: kernels count pixels."""
    return T.arg(name, T.buffer((tiles, planes * plane.size, vec.lanes), vec.dtype))


@dataclass(frozen=True)
class Index:
    """An index array of any integer type, read as int32."""

    buffer: Buffer

    def __getitem__(self, i: Expr) -> Expr:
        return T.Cast("int32", self.buffer[i])


class Indices:
    """The index arrays of a kernel, in argument order: made after the inputs' arguments, bound by `match` after the
    outputs' (all arguments come before any other buffer)."""

    def __init__(self, dtypes: Mapping[str, str]) -> None:
        self._dtypes = dict(dtypes)
        self._handles = {name: T.arg(name, T.handle()) for name in self._dtypes}

    def match(self) -> list[Index]:
        """The arrays, each of any length."""
        return [Index(T.match_buffer(self._handles[n], (T.int32(),), dtype)) for n, dtype in self._dtypes.items()]


def flat_any(handle: Expr, width: int, dtype: str) -> Buffer:
    """An argument of any number of rows of `width` values, as one dimension."""
    whole = T.match_buffer(handle, (T.int32(), width), dtype)
    return T.decl_buffer((1 << 30,), dtype, data=whole.data)


def flat(buffer: Buffer) -> Buffer:
    """The same memory as one dimension."""
    return T.decl_buffer((prod(int(n) for n in buffer.shape),), buffer.dtype, data=buffer.data)


def tree(values: Sequence[Expr]) -> Expr:
    """Sum of expressions as a balanced tree."""
    values = list(values)
    while len(values) > 1:
        odd = [values[-1]] if len(values) % 2 else []
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=False)] + odd
    return values[0]


@dataclass(frozen=True)
class Part:
    """`count` tiles of `size`, the first at `start`."""

    start: int
    size: int
    count: int


def split(extent: int, most: int) -> list[Part]:
    """Fewest tiles of at most `most` that cover an extent, of two sizes at most, as even as can be."""
    count = -(-extent // most)
    small, bigger = divmod(extent, count)
    parts = [Part(0, small + 1, bigger)] if bigger else []
    return parts + ([Part(bigger * (small + 1), small, count - bigger)] if small and count > bigger else [])


def blocks(extent: int, size: int) -> list[Part]:
    """As many tiles of `size` as fit, and one smaller one for what is left."""
    full, rest = divmod(extent, size)
    parts = [Part(0, size, full)] if full else []
    return parts + ([Part(full * size, rest, 1)] if rest else [])


def tile_shape(rows: int, cols: int, pixels: int) -> tuple[int, int]:
    """(rows, columns) of a register tile of at most `pixels` pixels, such that even tiles fill the registers best;
    of equals the one with the fewest rows, whose pixels stand side by side."""

    def filled(tile_rows: int) -> float:
        across = -(-cols // (pixels // tile_rows))
        return rows / -(-rows // tile_rows) * cols / across

    best = max(range(1, min(rows, pixels) + 1), key=lambda r: (round(filled(r), 6), -r))
    return best, min(cols, pixels // best)


@contextmanager
def each(part: Part) -> Iterator[Expr]:
    """Loop over the tiles of a part; yields a tile's first index."""
    if part.count == 1:
        yield T.int32(part.start)
    else:
        with T.serial(part.count) as i:
            yield i * part.size + part.start


def shared(total: Expr, chunks: int, body: Callable[[Expr, Expr, Expr], None]) -> None:
    """body(first, count, chunk) in parallel over `chunks` even parts of 0..total-1."""
    with T.parallel(chunks) as chunk:
        first = T.Bind(T.truncdiv(chunk * total, chunks))
        body(first, T.Bind(T.truncdiv((chunk + 1) * total, chunks) - first), chunk)


def function(name: str, body: Callable[[], None]) -> tirx.PrimFunc:
    """A PrimFunc whose arguments and body are appended by `body`."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        # Buffers are written both by name and through pointers: told there is no aliasing, LLVM could reorder the two.
        T.func_attr({"tirx.noalias": False, "op_pattern": OPAQUE, "global_symbol": name})
        body()
    return builder.get()
