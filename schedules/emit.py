"""Small pieces of tensor IR that the generators of every device kind are written with: arguments, index arrays, splits.

They run inside an IRBuilder frame and append to it, so Python loops unroll and Python lists are register arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.vector import Vector

OPAQUE = 8  # TVM's TOpPattern kOpaque

Expr = Any  # a tirx.PrimExpr or a Python number
Buffer = Any  # a tirx.Buffer


def activation(name: str, tiles: int, planes: int, plane: Plane, vec: Vector) -> Buffer:
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


def tile_shape(rows: int, cols: int, pixels: int, reach: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """(rows, columns) of a register tile of at most `pixels` pixels, such that even tiles fill the registers best;
    of equals the one around which a kernel of size `reach` reads the least, and of those the one with the fewest rows,
    whose pixels stand side by side."""

    def worth(tile_rows: int) -> tuple[float, int, int]:
        across = -(-cols // (pixels // tile_rows))
        width = -(-cols // across)
        filled = rows / -(-rows // tile_rows) * cols / across
        around = (tile_rows + reach[0] - 1) * (width + reach[1] - 1) - tile_rows * width
        return round(filled, 6), -around, -tile_rows

    best = max(range(1, min(rows, pixels) + 1), key=worth)
    return best, min(cols, pixels // best)


@contextmanager
def each(part: Part) -> Iterator[Expr]:
    """Loop over the tiles of a part; yields a tile's first index."""
    if part.count == 1:
        yield T.int32(part.start)
    else:
        with T.serial(part.count) as i:
            yield i * part.size + part.start


def function(name: str, body: Callable[[], None]) -> tirx.PrimFunc:
    """A PrimFunc whose arguments and body are appended by `body`."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        # Buffers are written both by name and through pointers: told there is no aliasing, LLVM could reorder the two.
        T.func_attr({"tirx.noalias": False, "op_pattern": OPAQUE, "global_symbol": name})
        body()
    return builder.get()
