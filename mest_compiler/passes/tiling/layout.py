"""Which examples and positions of an activation share the lanes of a vector, and which stand in planes beside them.

Every activation becomes [tiles, features * plane, L]: told here, and nowhere else. Another sharing is one more class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from mest_compiler.errors import ModelError
from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.sparsity.layer_spec import INT32_MAX

Shape = Sequence[int]


@dataclass(frozen=True)
class Layout(ABC):
    """How shapes [N, features, ...] lie in vectors of `lanes`."""

    lanes: int

    @abstractmethod
    def tiles(self, shape: Shape) -> int:
        """How many tiles, which kernels share out to threads."""

    @abstractmethod
    def plane(self, shape: Shape, border: int = 0) -> Plane:
        """The positions of a feature in a tile, a vector each."""

    def tiled(self, shape: Shape, border: int = 0) -> tuple[int, int, int]:
        """Shape in memory.

        Raises:
            ModelError: more elements than 32-bit indices reach.
        """
        found = (self.tiles(shape), shape[1] * self.plane(shape, border).size, self.lanes)
        if prod(found) > INT32_MAX:
            raise ModelError(
                f"An activation of shape {tuple(shape)} has {prod(found)} elements in batch tiles, more than 32-bit "
                "indices reach: use a smaller batch."
            )
        return found

    def geometry(
        self, x: Shape, y: Shape, weight: Shape, dtype: str, *, stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0), dilation: tuple[int, int] = (1, 1), groups: int = 1, x_border: int = 0,
        dy_border: int = 0,
    ) -> ConvGeometry:  # fmt: skip
        """Of a convolution of x with a weight (F, C / groups, kh, kw) to y, where the other borders are none."""
        return ConvGeometry(
            tiles=self.tiles(x), lanes=self.lanes, channels=x[1], filters=weight[0], kernel=tuple(weight[2:]),
            stride=tuple(stride), padding=tuple(padding), dilation=tuple(dilation), groups=groups, dtype=dtype,
            x=self.plane(x, x_border), y=self.plane(y), dy=self.plane(y, dy_border), dx=self.plane(x),
        )  # fmt: skip


class BatchTiles(Layout):
    """[N, C, H, W] -> [ceil(N / L), C * rows * cols, L]: examples share lanes, pixels stand beside each other."""

    def tiles(self, shape: Shape) -> int:
        """One for every L examples."""
        return -(-shape[0] // self.lanes)

    def plane(self, shape: Shape, border: int = 0) -> Plane:
        """Of pixels."""
        return Plane(shape[2], shape[3], border)


class BatchRows(Layout):
    """[N, C] -> [1, C * ceil(N / L), L]: example n stands in vector n // L, lane n % L of a feature, so that a register
    tile holds many examples of it."""

    def tiles(self, shape: Shape) -> int:
        """One."""
        return 1

    def plane(self, shape: Shape, border: int = 0) -> Plane:
        """Of the vectors of a batch, in a row."""
        return Plane(1, -(-shape[0] // self.lanes), border)
