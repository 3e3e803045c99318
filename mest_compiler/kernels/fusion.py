"""What a gathering convolution may do besides, as plain data that passes write and generators read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .geometry import Plane
from .normalisation import Normalisation

SUMS = Plane(1, 2)
"""The two sums of a plane, a vector each: batch tiles [tiles, planes, 1, 2, L], a sum of each example's in its lane."""


@dataclass(frozen=True)
class ForwardSums:
    """The sums of y - K and (y - K)^2 over the pixels of each plane of each example; K is the plane's first pixel.

    So shifted they lose nothing where the mean is large against the deviation. K needs no place of its own: a gather
    finishes the first pixel of a plane before any other, and whoever reads the sums has the plane.
    """


@dataclass(frozen=True)
class BackwardSums:
    """For a backward-data whose dX is the gradient of a batch norm's output z: writes g = dX where 0 < z < upper bound
    (g = dX without a ReLU), and the sums of g and g * (x - mean) over the pixels of each plane of each example.

    x: planes of the batch norm's input. z: those of its output where that has a residual added and must be read; None:
    it is computed again from x. Arguments: X, [Z], W, B, MEAN, RSTD of the batch norm.
    """

    x: Plane
    relu: bool
    upper: float = math.inf
    z: Plane | None = None


Epilogue = ForwardSums | BackwardSums


@dataclass(frozen=True)
class Fused:
    """What a gather does besides its convolution; kernels are told apart by it.

    epilogue: sums of what it writes, taken while the numbers are at hand. recompute: the batch norm whose output it
    reads, and computes itself a batch tile at a time, in `chunks` parts that threads share.
    """

    epilogue: Epilogue | None = None
    recompute: Normalisation | None = None
    chunks: int = 1

    def named(self, name: str) -> str:
        """A kernel's name with what it does besides."""
        return (
            name
            + ("_normalised" if self.recompute is not None else "")
            + ("_sums" if self.epilogue is not None else "")
        )


ALONE = Fused()
"""Nothing but the convolution."""
