"""The input that a convolution reads: as it lies in memory, or batch norm's output computed again from its input.

Computed again a batch tile at a time, it stays in the core's own cache: it is not written to memory to be read back,
and nothing waits for it from forward.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.normalisation import Normalisation

from ..emit import Buffer, Expr, activation
from .emit import Vec, shared
from .normalise import scale_shift, write_plane

Tile = tuple[Buffer, Expr]
"""A batch tile of an activation: the buffer it is in, and its number there."""


class Source:
    """Made as the first of a kernel's arguments: X, `planes` like `plane` in each batch tile, or with `recompute`
    (batch norm without a residual) its input X, W [C], B [C], MEAN [C], RSTD [C]."""

    def __init__(self, tiles: int, planes: int, plane: Plane, vec: Vec, recompute: Normalisation | None) -> None:
        self.tiles, self.planes, self.plane, self.vec, self.recompute = tiles, planes, plane, vec, recompute
        self._x = activation("X", tiles, planes, plane if recompute is None else recompute.x, vec)
        names = () if recompute is None else ("NW", "NB", "NMEAN", "NRSTD")
        self._vectors = [T.arg(name, T.buffer((planes,), vec.dtype)) for name in names]
        self._chunks, self._tiles = 0, None

    def workspace(self, chunks: int) -> None:
        """The last of the arguments, only with `recompute`: a batch tile of X for each chunk of the work."""
        self._chunks = chunks
        if self.recompute is not None:
            self._tiles = activation("XT", chunks, self.planes, self.plane, self.vec)

    def at(self, tile: Expr, chunk: Expr) -> Tile:
        """A batch tile, which a chunk of the work computes for itself."""
        if self.recompute is None:
            return self._x, tile
        w, b, mean, rstd = self._vectors
        with T.serial(self.planes) as c:
            channel = scale_shift(self.vec, w[c], b[c], mean[c], rstd[c])
            target = self.vec.pointer(self._tiles, chunk, c * self.plane.size, 0)
            write_plane(self.recompute, c, tile, self._x, None, target, *channel)
        return self._tiles, chunk

    def each(self, body: Callable[[Tile, Expr], None]) -> None:
        """body(batch tile, its number) for all of them, in parallel."""
        if self.recompute is None:
            with T.parallel(self.tiles) as tile:
                body((self._x, tile), tile)
            return

        def share(first: Expr, count: Expr, chunk: Expr) -> None:
            with T.serial(count) as i:
                tile = T.Bind(first + i)
                body(self.at(tile, chunk), tile)

        shared(self.tiles, self._chunks, share)
