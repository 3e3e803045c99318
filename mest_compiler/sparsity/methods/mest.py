"""MEST's methods (paper, Algorithm 1): masks that stay, vanilla, elastic (EM) and soft-bounded (EM&S) mutation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..mutation_schedule import EM, EM_S, STATIC, VANILLA, MutationSchedule, Phase, units_at
from .base import Clock, MaskedLayer, MaskUpdater, Need, Network

if TYPE_CHECKING:
    import numpy as np

    from ..mutation import Change


@dataclass(frozen=True)
class Mest(MaskUpdater):
    """Removes the least important units and grows random ones as a `MutationSchedule` says.

    Its settings are the schedule's.
    """

    p: float = MutationSchedule.p
    mutate_every: int = MutationSchedule.mutate_every
    mutate_until: int = MutationSchedule.mutate_until
    p_milestones: tuple[int, ...] = MutationSchedule.p_milestones
    p_decay: float = MutationSchedule.p_decay
    importance_lambda: float = MutationSchedule.importance_lambda

    needs: ClassVar = frozenset({Need.IMPORTANCE})

    def __post_init__(self) -> None:
        """Raises ProfileError: a setting that cannot be."""
        _ = self.schedule

    @property
    def schedule(self) -> MutationSchedule:
        """When and to which sparsity."""
        return MutationSchedule(self.name, **self.settings())

    @property
    def headroom(self) -> float:
        """The schedule's."""
        return self.schedule.headroom

    def check(self, layers: Mapping[str, MaskedLayer]) -> None:
        """Every sparsity on the way is one that the layers can have, and their rows keep equally many units."""
        from ..mutation import check_balanced

        phases = {phase for epoch in range(self.mutate_until + 1) for phase in self.schedule.phases(epoch)}
        for name, layer in layers.items() if phases else ():
            check_balanced(name, layer.scheme, layer.shape, layer.kept)
            for phase in phases:
                _count(name, layer, phase)

    def due(self, clock: Clock) -> bool:
        """Between epochs, as the schedule says."""
        return not clock.step and bool(self.schedule.phases(clock.epoch))

    def changes(
        self, layers: Mapping[str, MaskedLayer], network: Network, clock: Clock, rng: np.random.Generator
    ) -> dict[str, Change]:
        """The phases of this epoch, layer by layer."""
        from ..mutation import Change, grow_to, remove_to

        phases = self.schedule.phases(clock.epoch)
        weights = None if phases[0].grow else network.importance(self.importance_lambda)
        found = {}
        for name, layer in layers.items():
            survivors = kept = layer.kept
            for phase in phases:
                count = _count(name, layer, phase)
                if phase.grow:
                    kept = grow_to(layer.scheme, layer.shape, kept, count, rng)
                else:
                    survivors = kept = remove_to(layer.scheme, layer.shape, kept, weights[name], count)
            found[name] = Change(survivors, kept)
        return found

    def described(self) -> str:
        """With what is to be told from another run's."""
        return f"{self.name} p {self.p:g} every {self.mutate_every} until {self.mutate_until}"


def _count(name: str, layer: MaskedLayer, phase: Phase) -> int:
    return units_at(name, layer.scheme, layer.shape, layer.target, phase.offset)


class Static(Mest):
    """Its settings wait for a method that has them."""

    name, what, needs = STATIC, "masks stay", frozenset()


class Vanilla(Mest):
    """EM, and p stays."""

    name, what = VANILLA, "em with a p that stays"


class ElasticMutation(Mest):
    """Never more than at the target sparsity."""

    name = EM
    what = "remove p of the weights, grow as many elsewhere: never above the memory of --sparsity"


class SoftBoundedMutation(Mest):
    """The target sparsity at the end."""

    name = EM_S
    what = "grow p, train, then remove the least important: memory of sparsity - p until the end"
