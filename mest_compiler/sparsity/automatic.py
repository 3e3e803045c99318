"""`auto`: each layer's scheme is decided by measuring, among those that can have its mask or its ratio."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from mest_compiler.errors import MaskError, ProfileError

from .layer_rules import LayerPlan
from .scheme import Scheme, Shape, check_sparsity
from .schemes import SCHEMES

AUTO = "auto"
"""Its name among the schemes."""


@dataclass(frozen=True)
class Automatic:
    """A profile that leaves the schemes open: every convolution but the first, at one ratio or with given masks.

    Attributes:
        sparsity: of weights, in (0, 1); None where masks are given.
    """

    sparsity: float | None

    def __post_init__(self) -> None:
        """Raise ProfileError for a ratio outside (0, 1)."""
        if self.sparsity is not None:
            check_sparsity("a layer", self.sparsity)
            if self.sparsity == 0:
                raise ProfileError("Scheme 'auto' needs a sparsity above 0: without one the model is dense.")

    def plans(self, name: str, shape: Shape, mask: np.ndarray | None = None) -> dict[LayerPlan, int]:
        """What a layer may get, and the units that each plan keeps.

        With a mask: every scheme that the mask is one of, since they compute the same. Without: every fine-grained
        scheme that can have the ratio (channels and filters would win, and cost the network its accuracy); none where
        rounding keeps all or nothing of so small a layer.

        Raises:
            MaskError: the mask keeps nothing. ProfileError: there are both a ratio and a mask, or neither.
        """
        if (self.sparsity is None) == (mask is None):
            raise ProfileError(
                "Scheme 'auto' takes either a sparsity or masks, which say their own: give one of the two."
            )
        if mask is not None:
            if not mask.any():
                raise MaskError(f"The mask of {name!r} keeps nothing: keep at least one weight.")
            ratio = 1 - float(mask.mean())
            return {LayerPlan(kind.name, ratio): kept for kind in SCHEMES.values() if (kept := _kept(kind, mask))}
        found = {}
        for kind in SCHEMES.values():
            if not kind.fine or self.sparsity < kind.lowest:
                continue
            if kind.misfit(shape) is not None:
                continue
            kept = kind.kept_units(shape, self.sparsity)
            if 0 < kept * kind.unit_size(shape) < prod(shape):
                found[LayerPlan(kind.name, self.sparsity)] = kept
        return found


def _kept(kind: Scheme, mask: np.ndarray) -> int:
    """Units of a mask under a scheme, 0 where it is no mask of it."""
    try:
        return int(np.count_nonzero(kind.mask_to_units(mask)))
    except (MaskError, ProfileError):
        return 0
