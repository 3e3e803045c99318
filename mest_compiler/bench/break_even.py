"""From which sparsity on a sparse layer is faster than a dense one: what Figure 2 of the paper is about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class BreakEven:
    """Where a scheme begins to gain.

    Attributes:
        sparsity: fraction of zeros from which on it is faster than dense; the lowest measured one where it is faster
            everywhere, None where it is slower at the highest measured one.
        always: it is faster at every point measured, so the true value may be lower.
        lowest, highest: fractions of zeros that were measured.
    """

    sparsity: float | None
    always: bool
    lowest: float
    highest: float

    def __str__(self) -> str:
        if self.sparsity is None:
            return f"not up to {self.highest:.1%}"
        return f"{self.sparsity:.1%}" + (" or less" if self.always else "")


def break_even(points: Iterable[tuple[float, float]]) -> BreakEven:
    """The break-even point of at least one (sparsity, speed-up), by linear interpolation between the two neighbours.

    Where noise makes the curve cross 1 more than once, the last crossing counts: beyond it every point gains.
    """
    ordered = sorted(points)
    lowest, highest = ordered[0][0], ordered[-1][0]
    if ordered[-1][1] < 1:
        return BreakEven(None, False, lowest, highest)
    for (left, slow), (right, fast) in reversed(list(pairwise(ordered))):
        if slow < 1 <= fast:
            return BreakEven(left + (right - left) * (1 - slow) / (fast - slow), False, lowest, highest)
    return BreakEven(lowest, True, lowest, highest)
