"""Small pieces of tensor IR that every OpenCL generator is written with: quads of lanes, private cells, launch grids.

A batch tile's L lanes are L/4 quads. A work-item holds one quad (a float4 or double4) of each of its pixels, and L/4
consecutive items hold the lanes of a pixel, so loads and stores are coalesced 16-byte accesses. Places are counted in
quads: an index times 4 is provably aligned, and TVM writes it as vload4 and vstore4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..emit import Buffer, Expr

QUAD = 4  # lanes of a work-item
C_NAMES = {"float32": "float", "float64": "double"}


@dataclass(frozen=True)
class Vec:
    """Batch lanes of one dtype, `lanes` of them, a quad a work-item."""

    lanes: int
    dtype: str

    @property
    def quads(self) -> int:
        """Work-items that hold one pixel."""
        return self.lanes // QUAD

    @property
    def quad(self) -> str:
        """TVM's name of four numbers."""
        return f"{self.dtype}x{QUAD}"

    def const(self, value: float) -> Expr:
        """A quad of one constant."""
        return T.broadcast(number(value, self.dtype), QUAD)

    def splat(self, scalar: Expr) -> Expr:
        """A quad of one scalar."""
        return T.broadcast(scalar, QUAD)

    def registers(self, count: int) -> list[Buffer]:
        """Private quads: arrays of one element, which drivers keep in registers."""
        return [T.alloc_buffer((1,), self.quad, scope="local") for _ in range(count)]

    def get(self, register: Buffer) -> Expr:
        """Value of a register."""
        return register[0]

    def set(self, register: Buffer, value: Expr) -> None:
        """Write a register."""
        T.buffer_store(register, value, [0])

    def fma(self, register: Buffer, a: Expr, b: Expr) -> None:
        """register += a * b; a plain sum of a product, which contracts (fma() is emulated on Adreno)."""
        self.set(register, self.get(register) + a * b)

    def at_least(self, value: Expr, bound: Expr) -> Expr:
        """The larger one; a value that is no number stays so, and a diverged loss shows it (max may lose it)."""
        return tirx.Select(value < bound, bound, value)

    def at_most(self, value: Expr, bound: Expr) -> Expr:
        """The smaller one; a value that is no number stays so."""
        return tirx.Select(bound < value, bound, value)

    def load(self, flat: Buffer, quad: Expr) -> Expr:
        """Quad number `quad` of a flat buffer."""
        return flat[T.ramp(quad * QUAD, 1, QUAD)]

    def store(self, flat: Buffer, value: Expr, quad: Expr) -> None:
        """Write quad number `quad` of a flat buffer."""
        T.buffer_store(flat, value, [T.ramp(quad * QUAD, 1, QUAD)])

    def total(self, value: Expr) -> Expr:
        """Sum of a quad's numbers."""
        return T.call_extern(self.dtype, "dot", value, self.const(1))


def number(value: float, dtype: str) -> Expr:
    """A constant to the last bit: TVM writes one of floating point with seven digits, which is enough for few."""
    exact = np.asarray(value, dtype)
    if exact.dtype.kind != "f" or not np.isfinite(exact) or np.asarray(f"{exact:e}", dtype) == exact:
        return tirx.const(value, dtype)
    if exact < 0:
        return tirx.const(-1, dtype) * number(-value, dtype)
    bits = f"uint{8 * exact.itemsize}"
    name = {"float32": "as_float", "float64": "as_double"}[dtype]
    return T.call_extern(dtype, name, tirx.const(int(exact.view(bits)), bits))


def together(*numbers: Expr, dtype: str) -> Expr:
    """A quad of four numbers, as OpenCL C writes it (TVM's own way of it is C++)."""
    return T.call_extern(f"{dtype}x{QUAD}", f"({C_NAMES[dtype]}{QUAD})", *numbers)


def part(value: Expr, i: int) -> Expr:
    """Number `i` of a quad."""
    return T.Shuffle([value], [i])


def cell(value: Expr, dtype: str = "int32") -> Buffer:
    """A private number, read as `cell[0]`: unlike T.Bind, TVM cannot write its expression out at every use."""
    made = T.alloc_buffer((1,), dtype, scope="local")
    T.buffer_store(made, value, [0])
    return made


def flat(buffer: Buffer) -> Buffer:
    """The same memory as one dimension."""
    return T.decl_buffer((max(prod(int(n) for n in buffer.shape), 1),), buffer.dtype, data=buffer.data)


def flat_any(handle: Expr, width: int, dtype: str) -> Buffer:
    """An argument of any number of rows of `width` values, as one dimension."""
    whole = T.match_buffer(handle, (T.int32(), width), dtype)
    return T.decl_buffer((1 << 30,), dtype, data=whole.data)


@contextmanager
def launch(blocks: Sequence[Expr], threads: Sequence[int]) -> Iterator[tuple[list[Expr], list[Expr]]]:
    """A grid of work-groups: yields (work-group's numbers, work-item's numbers), x first, as many as were given."""
    tags = [(n, f"blockIdx.{axis}") for n, axis in zip(blocks, "xyz", strict=False)]
    tags += [(n, f"threadIdx.{axis}") for n, axis in zip(threads, "xyz", strict=False)]
    frames = [T.thread_binding(n, thread=tag) for n, tag in tags]
    numbers = [frame.__enter__() for frame in frames]
    try:
        yield numbers[: len(blocks)], numbers[len(blocks) :]
    finally:
        for frame in reversed(frames):
            frame.__exit__(None, None, None)
