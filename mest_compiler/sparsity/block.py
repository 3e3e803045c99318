"""Blocks of m filters by n input channels at one place of the kernel; (1, 1) is unstructured sparsity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .scheme import Scheme, Shape


@dataclass(frozen=True)
class Block(Scheme):
    """Scheme whose unit is `filters` consecutive filters by `channels` consecutive input channels at one kernel place.

    A row is `filters` filters; its columns are (block of channels, kernel place). In the paper's GEMM matrix
    [F, C*kh*kw] a block of (m, 1) is m rows of a column; the columns of a block (m, n) are n channels of one kernel
    place, so that they read n planes at the same pixels (with 1x1 kernels: n neighbouring columns).
    """

    name: str
    filters: int
    channels: int = 1
    aliases: tuple[str, ...] = ()
    of_linears = True

    def misfit(self, shape: Shape) -> str | None:
        """Filters or channels that are no multiples of the block's; None where both are."""
        for axis, what, size in ((0, "filters", self.filters), (1, "input channels", self.channels)):
            if shape[axis] % size:
                return f"{shape[axis]} {what}, which scheme {self.name!r} cannot cut into blocks of {size}"
        return None

    def grid(self, shape: Shape) -> tuple[int, int]:
        """(F / filters, C / channels * kh * kw)."""
        self.check_shape("(unnamed)", shape)
        return shape[0] // self.filters, shape[1] // self.channels * shape[2] * shape[3]

    def unit_size(self, shape: Shape) -> int:
        """Filters by channels."""
        return self.filters * self.channels

    def weights_of(self, units: np.ndarray, shape: Shape) -> np.ndarray:
        """int64 [n, unit_size]: channels run outside, filters inside."""
        taps = shape[2] * shape[3]
        row, column = np.divmod(units.astype(np.int64), self.grid(shape)[1])
        channel, tap = np.divmod(column, taps)
        first = row * (self.filters * shape[1] * taps) + channel * (self.channels * taps) + tap
        inside = np.arange(self.channels)[:, None] * taps + np.arange(self.filters) * (shape[1] * taps)
        return first[:, None] + inside.reshape(-1)

    def describe(self, unit: int, shape: Shape) -> str:
        """ "filters 0 to 3, channels 5 to 5, place 4"."""
        row, column = divmod(unit, self.grid(shape)[1])
        channel, tap = divmod(column, shape[2] * shape[3])
        last = (row + 1) * self.filters - 1, (channel + 1) * self.channels - 1
        return (
            f"filters {row * self.filters} to {last[0]}, channels {channel * self.channels} to {last[1]}, place {tap}"
        )
