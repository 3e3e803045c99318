"""Structured sparsity: whole input channels, or whole filters, of a layer (paper, Appendix A)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from .scheme import Scheme, Shape


@dataclass(frozen=True)
class Planes(Scheme):
    """Scheme whose unit is all weights that read one input channel (axis 1) or make one filter (axis 0).

    There is one row; its columns are the channels or the filters. A unit's values stand as [F, kh, kw] or as
    [C, kh, kw].
    """

    name: str
    axis: int
    fine = False

    indexed = False

    def grid(self, shape: Shape) -> tuple[int, int]:
        """(1, C) or (1, F)."""
        self.check_shape("(unnamed)", shape)
        return 1, shape[self.axis]

    def unit_size(self, shape: Shape) -> int:
        """All weights of a plane."""
        return prod(shape) // shape[self.axis]

    def weights_of(self, units: np.ndarray, shape: Shape) -> np.ndarray:
        """int64 [n, unit_size]: the weights of each plane in torch's order."""
        places = np.moveaxis(np.arange(prod(shape)).reshape(shape), self.axis, 0)
        return places[units].reshape(len(units), self.unit_size(shape))

    def describe(self, unit: int, shape: Shape) -> str:
        """ "filter 3" or "channel 3"."""
        return f"{('filter', 'channel')[self.axis]} {unit}"
