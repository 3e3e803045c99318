"""What every sparsity scheme says about itself: its unit, the places a unit can take, and masks from and to units.

A scheme sees a layer's weight [F, C, kh, kw] as a grid of rows x columns; a place in it is a unit, the least that is
kept or removed as one (paper, section 3 and Appendix D), and unit ids run row by row. A new scheme is one more file
beside this one and an entry in `schemes`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from numbers import Real

import numpy as np

from mest_compiler.errors import MaskError, ProfileError

Shape = tuple[int, int, int, int]


def kernel_shape(shape: Sequence[int]) -> Shape:
    """(F, C, kh, kw) of a convolution's or linear layer's weight; the latter's kernels are 1x1."""
    return (*shape, 1, 1)[:4]


class Scheme(ABC):
    """One scheme.

    Attributes:
        name: the one spelling used in plans, structures and artifacts.
        aliases: further spellings that `get_scheme` accepts.
        of_linears: whether linear layers can have it too.
        fine: whether its units are small enough to keep a network's accuracy; what `--scheme auto` chooses among.
        lowest: the smallest sparsity it can have.
        balanced: whether every row of the grid keeps equally many units.
        indexed: whether each kept unit needs an index of where it is (Table A.1), as it does unless what is left of the
            layer is just a smaller dense one.
    """

    name: str
    aliases: tuple[str, ...] = ()
    of_linears: bool = False
    fine: bool = True
    lowest: float = 0.0
    balanced: bool = False
    indexed: bool = True

    def misfit(self, shape: Shape) -> str | None:
        """Why the scheme cannot cut a weight of this shape into units, as it follows "has"; None: it can.

        A scheme that is asked of all layers leaves those dense that it does not fit.
        """
        return None

    def check_shape(self, name: str, shape: Shape) -> None:
        """Raise ProfileError, naming the layer, unless the scheme can cut this shape into units."""
        if len(shape) != 4 or min(shape) < 1:
            raise ProfileError(
                f"Layer {name!r} has a weight of shape {tuple(shape)}, but a sparse layer needs [filters, "
                "channels, kh, kw], each at least 1: keep it dense."
            )
        why = self.misfit(shape)
        if why is not None:
            raise ProfileError(f"Layer {name!r} has {why}: keep it dense or give it another scheme in the profile.")

    @abstractmethod
    def grid(self, shape: Shape) -> tuple[int, int]:
        """(rows, columns) of the units of a weight of this shape."""

    @abstractmethod
    def unit_size(self, shape: Shape) -> int:
        """Weights of one unit."""

    @abstractmethod
    def weights_of(self, units: np.ndarray, shape: Shape) -> np.ndarray:
        """int64 [n, unit_size]: where in the flat weight the weights of units, int [n], stand; their order is that of a
        unit's compact values."""

    def site(self, columns: np.ndarray) -> np.ndarray:
        """int [n]: what no two kept units of a row may share, of columns, int [n]."""
        return columns

    def units(self, shape: Shape) -> int:
        """Number of units of a weight of this shape."""
        return prod(self.grid(shape))

    def most_kept(self, shape: Shape) -> int:
        """Units that can be kept at the same time: fewer than `units` where several exclude each other."""
        return self.units(shape)

    def highest(self, shape: Shape) -> float:
        """The largest sparsity of weights that still keeps something of a weight of this shape."""
        return 1 - self.unit_size(shape) / prod(shape)

    def check_ratio(self, where: str, sparsity: object) -> None:
        """Raise ProfileError, naming the place, unless the scheme can have this sparsity of weights."""
        check_sparsity(where, sparsity)

    def sparsity_of_kernels(self, where: str, removed: float) -> float:
        """The sparsity of weights where this fraction of the kernels is removed whole, as the MEST authors' scripts
        write the ratios of their pattern networks.

        Raises:
            ProfileError: kernels are not what the scheme removes.
        """
        raise ProfileError(
            f"The ratio of {where} is said to be one of kernels, but scheme {self.name!r} does not remove whole "
            "kernels: say that it is one of weights, or use scheme pattern."
        )

    def kept_units(self, shape: Shape, sparsity: float) -> int:
        """Units kept at this sparsity of weights: round((1 - s) * units), halves to even.

        Raises:
            ProfileError: the sparsity is outside [0, 1), or below what the scheme can have.
        """
        self.check_ratio("a mask", sparsity)
        # Every unit holds equally many weights, so the ratio of units is that of weights.
        return round((1 - sparsity) * self.units(shape))

    def mask_to_units(self, mask: np.ndarray) -> np.ndarray:
        """bool [units], True = kept, of a bool mask [F, C, kh, kw].

        Raises:
            MaskError: not a four-dimensional bool array, or a unit is kept in part.
        """
        check_mask(mask)
        of_units = mask.reshape(-1)[self._all_weights(mask.shape)]
        some, every = of_units.any(axis=1), of_units.all(axis=1)
        if not np.array_equal(some, every):
            unit = int(np.flatnonzero(some != every)[0])
            raise MaskError(
                f"The mask of shape {mask.shape} is no mask of scheme {self.name!r}: of "
                f"{self.describe(unit, mask.shape)} some weights are kept, some are not."
            )
        return some

    def units_to_mask(self, kept: np.ndarray, shape: Shape) -> np.ndarray:
        """bool mask [F, C, kh, kw] of kept units, bool [units]: the inverse of `mask_to_units`."""
        units = self.units(shape)
        if kept.dtype != np.bool_ or kept.shape != (units,):
            raise MaskError(
                f"Kept units of a weight of shape {tuple(shape)} under scheme {self.name!r} are a bool array "
                f"of {units}, not {kept.dtype} of shape {kept.shape}."
            )
        return self.mask_of(np.flatnonzero(kept), shape)

    def units_of(self, mask: np.ndarray) -> np.ndarray:
        """int32, ascending: ids of the units that a bool mask [F, C, kh, kw] keeps; errors as of `mask_to_units`."""
        return np.flatnonzero(self.mask_to_units(mask)).astype(np.int32)

    def mask_of(self, units: np.ndarray, shape: Shape) -> np.ndarray:
        """bool mask [F, C, kh, kw] that keeps the units with these ids, int [n]: the inverse of `units_of`."""
        mask = np.zeros(prod(shape), np.bool_)
        mask[self.weights_of(units, shape)] = True
        return mask.reshape(shape)

    def cover(self, mask: np.ndarray) -> np.ndarray:
        """The smallest mask of this scheme that keeps all a bool mask [F, C, kh, kw] keeps.

        Raises:
            MaskError: no mask of the scheme keeps all that.
        """
        check_mask(mask)
        return self.units_to_mask(mask.reshape(-1)[self._all_weights(mask.shape)].any(axis=1), mask.shape)

    def random_mask(self, shape: Shape, sparsity: float, rng: np.random.Generator) -> np.ndarray:
        """Balanced random bool mask [F, C, kh, kw]: `kept_units` units in all, equally many a row up to one.

        Which rows get the one more and which columns a row keeps is drawn with `rng.random` alone, the part
        of NumPy's generators least likely to change between versions.
        """
        rows, columns = self.grid(shape)
        each, extra = divmod(self.kept_units(shape, sparsity), rows)
        noise, row_noise = rng.random((rows, columns)), rng.random(rows)
        kept = smallest(noise, each)
        if extra:
            longer = np.argsort(row_noise, kind="stable")[:extra]
            kept[longer] = smallest(noise[longer], each + 1)
        return self.units_to_mask(kept.reshape(-1), shape)

    def mask_of_rows(self, shape: Shape, quotas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Random bool mask [F, C, kh, kw] that keeps of each row as many units as `quotas`, int [rows], says.

        More than a row has sites are as many as it has.
        """
        rows, columns = self.grid(shape)
        sites = int(self.site(np.arange(columns))[-1]) + 1
        kinds = columns // sites  # units of a site, of which a row keeps one at most
        kept = np.zeros((rows, sites, kinds), np.bool_)
        rank = np.argsort(rng.random((rows, sites)), axis=1)
        for row, quota in enumerate(np.minimum(quotas, sites)):
            some = rank[row, :quota]
            kept[row, some, (rng.random(len(some)) * kinds).astype(np.int64)] = True
        return self.units_to_mask(kept.reshape(-1), shape)

    @abstractmethod
    def describe(self, unit: int, shape: Shape) -> str:
        """A unit in words, for errors: "filter 3, column 17"."""

    def _all_weights(self, shape: Shape) -> np.ndarray:
        return self.weights_of(np.arange(self.units(shape)), shape)


def smallest(noise: np.ndarray, count: int) -> np.ndarray:
    """bool, True at the `count` smallest of each row of [rows, columns]."""
    kept = np.zeros(noise.shape, np.bool_)
    if count >= noise.shape[1]:
        kept[:] = True
    elif count:
        np.put_along_axis(kept, np.argpartition(noise, count - 1, axis=1)[:, :count], True, axis=1)
    return kept


def check_mask(mask: object) -> None:
    """Raise MaskError unless this is a four-dimensional bool array."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 4:
        known = isinstance(mask, np.ndarray)
        found = f"{mask.dtype} of shape {mask.shape}" if known else type(mask).__name__
        raise MaskError(f"A mask is a bool array [filters, channels, kh, kw], not {found}.")


def check_sparsity(where: str, sparsity: object) -> None:
    """Raise ProfileError, naming the place, unless this is a fraction of weights that are zero, in [0, 1)."""
    # `not 0 <= s < 1` also turns NaN away; a bool is a number to Python but no ratio to anybody.
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0 <= sparsity < 1:
        raise ProfileError(
            f"The sparsity of {where} is {sparsity!r}: give the fraction of weights that are zero, at least "
            "0 and below 1 (0.9 for 90 %)."
        )
