"""3x3 kernels with one of eight four-entry patterns; most kernels are removed whole (connectivity sparsity)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mest_compiler.errors import MaskError, ProfileError

from .scheme import Scheme, Shape, check_mask, check_sparsity, smallest

# Kept entries of the 3x3 kernel, row by row, as the MEST authors' scripts have them; the fifth leaves the centre out.
_DRAWN = (
    "000 011 011",
    "000 110 110",
    "011 011 000",
    "110 110 000",
    "000 001 111",
    "000 111 010",
    "010 011 010",
    "010 110 010",
)
PATTERNS = tuple(tuple(i for i, kept in enumerate(rows.replace(" ", "")) if kept == "1") for rows in _DRAWN)
"""Kernel places (i * 3 + j) that each pattern keeps."""
KINDS, KEPT, PLACES = len(PATTERNS), 4, 9
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Pattern(Scheme):
    """Scheme whose unit is a kernel with a pattern; a row is a filter, its columns are channel * 8 + pattern.

    A kernel has one pattern at most, and every filter keeps equally many kernels. The sparsity is always that of
    weights, so it is at least 5/9 and kernels kept = (1 - s) * 9/4 of all.
    """

    name: str = "pattern"
    lowest = 1 - KEPT / PLACES
    balanced = True

    def misfit(self, shape: Shape) -> str | None:
        """Kernels that are not 3x3; None where they are."""
        if tuple(shape[2:]) == (3, 3):
            return None
        return f"{shape[2]}x{shape[3]} kernels, but scheme {self.name!r} needs 3x3"

    def grid(self, shape: Shape) -> tuple[int, int]:
        """(F, C * 8)."""
        self.check_shape("(unnamed)", shape)
        return shape[0], shape[1] * KINDS

    def unit_size(self, shape: Shape) -> int:
        """4."""
        return KEPT

    def site(self, columns: np.ndarray) -> np.ndarray:
        """The kernel's channel."""
        return columns // KINDS

    def most_kept(self, shape: Shape) -> int:
        """F * C: a pattern in every kernel."""
        return shape[0] * shape[1]

    def highest(self, shape: Shape) -> float:
        """That of a kernel in every filter."""
        return 1 - KEPT / (PLACES * shape[1])

    def check_ratio(self, where: str, sparsity: object) -> None:
        """Raise ProfileError unless the sparsity is one, and at least 5/9."""
        check_sparsity(where, sparsity)
        # A ratio written with few digits (0.5556) means 5/9.
        if sparsity < self.lowest - _ROUNDING:
            raise ProfileError(
                f"The sparsity of {where} is {sparsity:g}, below {self.lowest:.4f} (5/9), the least that scheme "
                f"{self.name!r} can have, since its kernels keep 4 of 9 weights each: raise it or use another scheme."
            )

    def sparsity_of_kernels(self, where: str, removed: float) -> float:
        """The other kernels keep 4 of 9 weights, so 0.775 of the kernels is 0.9 of the weights."""
        check_sparsity(where, removed)
        return 1 - (1 - removed) * KEPT / PLACES

    def kept_units(self, shape: Shape, sparsity: float) -> int:
        """Kernels kept at this sparsity of weights, equally many in every filter.

        Raises:
            ProfileError: the sparsity is outside [0, 1) or below 5/9.
        """
        self.check_ratio("a mask", sparsity)
        return shape[0] * min(shape[1], round((1 - sparsity) * shape[1] * PLACES / KEPT))

    def weights_of(self, units: np.ndarray, shape: Shape) -> np.ndarray:
        """int64 [n, 4]: in the order of places."""
        kernel, kind = np.divmod(units.astype(np.int64), KINDS)
        return kernel[:, None] * PLACES + np.array(PATTERNS)[kind]

    def mask_to_units(self, mask: np.ndarray) -> np.ndarray:
        """bool [F * C * 8]; MaskError where a kernel keeps what is none of the eight patterns."""
        codes = self._codes(mask)
        kinds = _EXACT[codes]
        if (kinds[codes > 0] < 0).any():
            kernel = int(np.flatnonzero((kinds < 0) & (codes > 0))[0])
            raise MaskError(
                f"The mask of shape {mask.shape} is no mask of scheme {self.name!r}: "
                f"{self.describe(kernel * KINDS, mask.shape)} keeps places {_places(codes[kernel])}, which is none of "
                "the eight patterns."
            )
        return self._of_kinds(kinds)

    def cover(self, mask: np.ndarray) -> np.ndarray:
        """The smallest mask of patterns; of several that cover a kernel the first is taken."""
        codes = self._codes(mask)
        kinds = _COVERING[codes]
        if (kinds[codes > 0] < 0).any():
            kernel = int(np.flatnonzero((kinds < 0) & (codes > 0))[0])
            raise MaskError(
                f"No pattern covers {self.describe(kernel * KINDS, mask.shape)}, which keeps places "
                f"{_places(codes[kernel])}: prune it to one of the eight patterns or use another scheme."
            )
        return self.units_to_mask(self._of_kinds(np.where(codes > 0, kinds, -1)), mask.shape)

    def random_mask(self, shape: Shape, sparsity: float, rng: np.random.Generator) -> np.ndarray:
        """Equally many kernels a filter, each of which draws its pattern evenly."""
        filters, channels = shape[:2]
        self.check_shape("(unnamed)", shape)
        kept = smallest(rng.random((filters, channels)), self.kept_units(shape, sparsity) // filters)
        kinds = np.minimum((rng.random((filters, channels)) * KINDS).astype(np.int64), KINDS - 1)
        return self.units_to_mask(self._of_kinds(np.where(kept, kinds, -1).reshape(-1)), shape)

    def describe(self, unit: int, shape: Shape) -> str:
        """ "the kernel of filter 3 and channel 5"."""
        filter_, channel = divmod(unit // KINDS, shape[1])
        return f"the kernel of filter {filter_} and channel {channel}"

    def _codes(self, mask: np.ndarray) -> np.ndarray:
        """int [F*C]: the kept places of each kernel as bits."""
        check_mask(mask)
        self.check_shape("(unnamed)", mask.shape)
        return mask.reshape(-1, PLACES) @ (1 << np.arange(PLACES))

    def _of_kinds(self, kinds: np.ndarray) -> np.ndarray:
        """bool [units] of each kernel's pattern, -1 for none."""
        units = np.zeros((kinds.size, KINDS), np.bool_)
        kept = np.flatnonzero(kinds >= 0)
        units[kept, kinds[kept]] = True
        return units.reshape(-1)


def _places(code: int) -> str:
    return ", ".join(str(place) for place in range(PLACES) if code >> place & 1)


def _table(fits) -> np.ndarray:
    """int [512]: the first pattern that fits a code, -1 where none does."""
    codes = [sum(1 << place for place in places) for places in PATTERNS]
    return np.array([next((k for k, own in enumerate(codes) if fits(code, own)), -1) for code in range(1 << PLACES)])


_EXACT = _table(lambda code, own: code == own)
_COVERING = _table(lambda code, own: code & ~own == 0)
