"""SET (Mocanu et al., Nature Communications 2018): after every epoch but the last, the smallest weights go and as many
random ones come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Clock, MaskedLayer, MaskUpdater, Need, Network

if TYPE_CHECKING:
    import numpy as np

    from ..mutation import Change


@dataclass(frozen=True)
class Set(MaskUpdater):
    """Both signs are ranked together, and what is grown starts at zero, as in RigL's comparison with SET (Evci et al.,
    ICML 2020, section 4).

    zeta: fraction of a layer's kept weights, in (0, 1); mutate_every: epochs; mutate_until: epoch from which on masks
    stay, None: the last one.
    """

    zeta: float = 0.3
    mutate_every: int = 1
    mutate_until: int | None = None

    name, what = "set", "remove the smallest zeta of what a layer keeps, grow as many elsewhere, after every epoch"
    needs: ClassVar = frozenset({Need.IMPORTANCE})

    def ranges(self) -> dict[str, tuple[bool, str]]:
        """A fraction, and epochs."""
        return {
            "zeta": (0 < self.zeta < 1, "above 0 and below 1"),
            "mutate_every": (self.mutate_every >= 1, "at least 1"),
            "mutate_until": (self.mutate_until is None or self.mutate_until >= 0, "at least 0"),
        }

    def check(self, layers: Mapping[str, MaskedLayer]) -> None:
        """Rows keep equally many units where their scheme mutates such alone."""
        from ..mutation import check_balanced

        for name, layer in layers.items():
            check_balanced(name, layer.scheme, layer.shape, layer.kept)

    def due(self, clock: Clock) -> bool:
        """Between epochs, once something has been learned and while something will be."""
        end = clock.epochs if self.mutate_until is None else self.mutate_until
        return not clock.step and 0 < clock.epoch < end and clock.epoch % self.mutate_every == 0

    def changes(
        self, layers: Mapping[str, MaskedLayer], network: Network, clock: Clock, rng: np.random.Generator
    ) -> dict[str, Change]:
        """Down by zeta and up again, layer by layer."""
        from ..mutation import Change, grow_to, remove_to

        magnitudes, found = network.importance(0.0), {}
        for name, layer in layers.items():
            scheme, shape = layer.scheme, layer.shape
            survivors = remove_to(scheme, shape, layer.kept, magnitudes[name], layer.left(name, self.zeta))
            found[name] = Change(survivors, grow_to(scheme, shape, survivors, layer.target, rng))
        return found
