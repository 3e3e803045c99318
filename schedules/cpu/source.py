"""The input that a weight gradient reads: as it lies in memory, or batch norm's output computed again from its input.

Computed again a batch tile at a time, it stays in the core's own cache, and no activation waits for it from forward.
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import ConvGeometry

from .emit import Buffer, Expr, Vec, activation
from .normalise import Normalisation, scale_shift, write_plane


class Source:
    """Made as the first of a kernel's arguments: X, or with `again` (batch norm without a residual) Y, W [C], B [C],
    MEAN [C], RSTD [C]."""

    def __init__(self, g: ConvGeometry, again: Normalisation | None) -> None:
        self.g, self.again, self.vec = g, again, Vec(g.lanes, g.dtype)
        self._x = activation("X", g.tiles, g.channels, g.x if again is None else again.x, self.vec)
        names = () if again is None else ("NW", "NB", "NMEAN", "NRSTD")
        self._vectors = [T.arg(name, T.buffer((g.channels,), g.dtype)) for name in names]
        self._tiles: Buffer = None

    def workspace(self, chunks: int) -> None:
        """The last of the arguments, only with `again`: a batch tile of X for each chunk."""
        if self.again is not None:
            self._tiles = activation("XT", chunks, self.g.channels, self.g.x, self.vec)

    def at(self, tile: Expr, chunk: Expr) -> tuple[Buffer, Expr]:
        """(buffer, number of the tile in it) of a batch tile, which a chunk of the work computes for itself."""
        if self.again is None:
            return self._x, tile
        w, b, mean, rstd = self._vectors
        with T.serial(self.g.channels) as c:
            channel = scale_shift(self.vec, w[c], b[c], mean[c], rstd[c])
            target = self.vec.pointer(self._tiles, chunk, c * self.g.x.size, 0)
            write_plane(self.again, c, tile, self._x, None, target, *channel)
        return self._tiles, chunk
