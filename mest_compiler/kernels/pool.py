"""Shapes of a pooling over batch tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .geometry import Plane
from .vector import Vector

Expr = Any  # a tirx.PrimExpr or a Python number


@dataclass(frozen=True)
class Pool:
    """Shapes of one pooling: x (any border), y and index without border unless said."""

    tiles: int
    channels: int
    vec: Vector
    x: Plane
    y: Plane
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def taps(self) -> list[tuple[int, int, int]]:
        """(place in the window, row, column) relative to the window's first pixel in x, padding taken off."""
        return [
            (
                i * self.kernel[1] + j,
                i * self.dilation[0] - self.padding[0],
                j * self.dilation[1] - self.padding[1],
            )
            for i in range(self.kernel[0])
            for j in range(self.kernel[1])
        ]

    def inside(self, r: Expr, q: Expr, i: int, j: int) -> list[Expr]:
        """Conditions under which a tap hits a pixel of x; none where it always does."""
        checks = []
        for at, offset, step, count, size in (
            (r, i, self.stride[0], self.y.height, self.x.height),
            (q, j, self.stride[1], self.y.width, self.x.width),
        ):
            if offset < 0:
                checks.append(at * step + offset >= 0)
            if (count - 1) * step + offset >= size:
                checks.append(at * step + offset < size)
        return checks

    def pixel(self, r: Expr, q: Expr, i: int, j: int) -> Expr:
        """Offset in a plane of x of a tap of the window of an output pixel."""
        return (r * self.stride[0] + i) * self.x.cols + q * self.stride[1] + j + self.x.at(0, 0)
