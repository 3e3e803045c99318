"""What a sparsity scheme keeps or removes as one (its unit), said once for masks, profiles and structures.

A layer's weight [F, C, kh, kw] is read as the GEMM matrix [F, C*kh*kw] (paper, section 3 and Appendix D). A
row of a scheme is `block` consecutive filters, a unit is one column of such a row, and unit ids run row by
row.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from numbers import Real

import numpy as np

from mest_compiler.errors import MaskError, ProfileError

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Scheme:
    """A scheme whose unit is `block` consecutive filters by one column.

    Attributes:
        name: the one spelling used in plans, structures and artifacts.
        block: filters that share a column (m); 1 for single weights.
        aliases: further spellings that `get_scheme` accepts.
    """

    name: str
    block: int
    aliases: tuple[str, ...] = ()

    def check_shape(self, name: str, shape: Shape) -> None:
        """Raise ProfileError, naming the layer, unless the scheme can cut this shape into units."""
        if len(shape) != 4 or min(shape) < 1:
            raise ProfileError(
                f"Layer {name!r} has a weight of shape {tuple(shape)}, but a sparse layer needs [filters, "
                "channels, kh, kw], each at least 1: keep it dense."
            )
        if shape[0] % self.block:
            raise ProfileError(
                f"Layer {name!r} has {shape[0]} filters, which scheme {self.name!r} cannot cut into blocks "
                f"of {self.block}: keep it dense or give it another scheme in the profile."
            )

    def grid(self, shape: Shape) -> tuple[int, int]:
        """(rows R = F / block, columns C*kh*kw) of the units of a weight of this shape."""
        self.check_shape("(unnamed)", shape)
        return shape[0] // self.block, prod(shape[1:])

    def units(self, shape: Shape) -> int:
        """Number of units of a weight of this shape."""
        return prod(self.grid(shape))

    def kept_units(self, shape: Shape, sparsity: float) -> int:
        """Units kept at this sparsity: round((1 - s) * units), halves to even.

        Raises:
            ProfileError: the sparsity is outside [0, 1).
        """
        check_sparsity("a mask", sparsity)
        # Every unit holds equally many weights, so the ratio of units is that of weights.
        return round((1 - sparsity) * self.units(shape))

    def mask_to_units(self, mask: np.ndarray) -> np.ndarray:
        """bool [units], True = kept, of a bool mask [F, C, kh, kw].

        Raises:
            MaskError: not a four-dimensional bool array, or a unit is kept in part.
        """
        some, every = self._units_of(mask, np.any), self._units_of(mask, np.all)
        if not np.array_equal(some, every):
            row, column = divmod(int(np.flatnonzero(some != every)[0]), prod(mask.shape[1:]))
            raise MaskError(
                f"The mask of shape {mask.shape} is no mask of scheme {self.name!r}: of filters "
                f"{row * self.block} to {(row + 1) * self.block - 1} some keep column {column}, some do not."
            )
        return some

    def units_to_mask(self, kept: np.ndarray, shape: Shape) -> np.ndarray:
        """bool mask [F, C, kh, kw] of kept units, bool [units]: the inverse of `mask_to_units`."""
        rows, columns = self.grid(shape)
        if kept.dtype != np.bool_ or kept.shape != (rows * columns,):
            raise MaskError(
                f"Kept units of a weight of shape {tuple(shape)} under scheme {self.name!r} are a bool array "
                f"of {rows * columns}, not {kept.dtype} of shape {kept.shape}."
            )
        return np.repeat(kept.reshape(rows, columns), self.block, axis=0).reshape(shape)

    def cover(self, mask: np.ndarray) -> np.ndarray:
        """The smallest mask of this scheme that keeps all a bool mask [F, C, kh, kw] keeps."""
        return self.units_to_mask(self._units_of(mask, np.any), mask.shape)

    def random_mask(self, shape: Shape, sparsity: float, rng: np.random.Generator) -> np.ndarray:
        """Balanced random bool mask [F, C, kh, kw]: `kept_units` units in all, equally many a row up to one.

        Which rows get the one more and which columns a row keeps is drawn with `rng.random` alone, the part
        of NumPy's generators least likely to change between versions.
        """
        rows, columns = self.grid(shape)
        each, extra = divmod(self.kept_units(shape, sparsity), rows)
        noise, row_noise = rng.random((rows, columns)), rng.random(rows)
        kept = np.zeros((rows, columns), np.bool_)
        if each == columns:
            kept[:] = True
        else:
            # The column at index `each` is the next smallest: the one more of the rows that get one.
            nearest = np.argpartition(noise, each, axis=1)
            np.put_along_axis(kept, nearest[:, :each], True, axis=1)
            longer = np.argsort(row_noise, kind="stable")[:extra]
            kept[longer, nearest[longer, each]] = True
        return self.units_to_mask(kept.reshape(-1), shape)

    def _units_of(self, mask: np.ndarray, reduce: Callable[..., np.ndarray]) -> np.ndarray:
        """bool [units]: `reduce` (np.any or np.all) over the weights of each unit."""
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 4:
            known = isinstance(mask, np.ndarray)
            found = f"{mask.dtype} of shape {mask.shape}" if known else type(mask).__name__
            raise MaskError(f"A mask is a bool array [filters, channels, kh, kw], not {found}.")
        rows, columns = self.grid(mask.shape)
        return reduce(mask.reshape(rows, self.block, columns), axis=1).reshape(-1)


def check_sparsity(where: str, sparsity: object) -> None:
    """Raise ProfileError, naming the place, unless this is a fraction of weights that are zero, in [0, 1)."""
    # `not 0 <= s < 1` also turns NaN away; a bool is a number to Python but no ratio to anybody.
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0 <= sparsity < 1:
        raise ProfileError(
            f"The sparsity of {where} is {sparsity!r}: give the fraction of weights that are zero, at least "
            "0 and below 1 (0.9 for 90 %)."
        )


SCHEMES = (Scheme("unstructured", 1), Scheme("block", 4, aliases=("block:4x1",)))
_BY_SPELLING = {spelling: scheme for scheme in SCHEMES for spelling in (scheme.name, *scheme.aliases)}


def get_scheme(name: str) -> Scheme:
    """The scheme of this name or alias.

    Raises:
        ProfileError: no such scheme; the sentence lists those there are.
    """
    if isinstance(name, str) and name in _BY_SPELLING:
        return _BY_SPELLING[name]
    close = difflib.get_close_matches(str(name), _BY_SPELLING, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ProfileError(f"There is no sparsity scheme {name!r}{hint}: use one of {', '.join(_BY_SPELLING)}.")
