"""Shapes of a batch norm over batch tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .geometry import Plane
from .vector import Vector


@dataclass(frozen=True)
class Normalisation:
    """Shapes of one batch norm: N examples in tiles of L lanes, C channels; planes of input, output and residual; and
    the upper bound of its ReLU.
    """

    batch: int
    channels: int
    vec: Vector
    x: Plane
    z: Plane
    relu: bool
    residual: Plane | None = None
    upper: float = math.inf

    @property
    def tiles(self) -> int:
        """Batch tiles."""
        return -(-self.batch // self.vec.lanes)

    @property
    def count(self) -> int:
        """Numbers a channel's statistics are taken over."""
        return self.batch * self.x.height * self.x.width

    def valid(self, tile: int) -> int:
        """Lanes of a tile that hold examples."""
        return min(self.vec.lanes, self.batch - tile * self.vec.lanes)

    def tile_ranges(self) -> list[tuple[int, int, int]]:
        """(first tile, number of tiles, valid lanes): full tiles, then a partly filled one."""
        full = self.batch // self.vec.lanes
        ranges = [(0, full, self.vec.lanes)] if full else []
        return ranges + ([(full, 1, self.valid(full))] if full < self.tiles else [])
