"""When a network mutates and to which sparsity: MEST's vanilla, elastic (EM) and soft-bounded (EM&S) mutation.

With target sparsity s of a layer and mutated fraction p of its weights (paper, Algorithm 1 and Table G.1), every
`mutate_every` epochs and before epoch `mutate_until`:

    vanilla, em   remove to s + p, grow back to s (never more than at s is kept); vanilla's p stays as it is
    em&s          remove to s, grow to s - p; at epoch `mutate_until` remove to s for good

p is multiplied by `p_decay` at each of the `p_milestones`. Nothing has been learned before the first epoch, so vanilla
and EM first mutate after `mutate_every` epochs, and EM&S starts with its growth alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from mest_compiler.errors import ProfileError

if TYPE_CHECKING:
    from .scheme import Scheme, Shape

STATIC, VANILLA, EM, EM_S = "static", "vanilla", "em", "em&s"
KINDS = (STATIC, VANILLA, EM, EM_S)


@dataclass(frozen=True)
class Phase:
    """One step of a mutation: to the units that a layer keeps at its target sparsity plus `offset`."""

    grow: bool
    offset: float


@dataclass(frozen=True)
class MutationSchedule:
    """See the module's docstring.

    method: one of KINDS ("static": masks stay as they are); p: fraction of all weights of a layer, in (0, 1);
    mutate_every, mutate_until: epochs (the paper's delta tau and tau stop); p_milestones: epochs from which on p is
    `p_decay` times what it was; importance_lambda: of Eq. 1.
    """

    method: str = STATIC
    p: float = 0.05
    mutate_every: int = 5
    mutate_until: int = 0
    p_milestones: tuple[int, ...] = ()
    p_decay: float = 0.5
    importance_lambda: float = 0.01

    def __post_init__(self) -> None:
        """Raise ProfileError for a value out of range."""
        ranges = {
            "method": (self.method in KINDS, f"one of {', '.join(KINDS)}"),
            "p": (0 < self.p < 1, "above 0 and below 1"),
            "mutate_every": (self.mutate_every >= 1, "at least 1"),
            "mutate_until": (self.mutate_until >= 0, "at least 0"),
            "p_decay": (0 < self.p_decay <= 1, "above 0 and at most 1"),
            "importance_lambda": (self.importance_lambda >= 0, "at least 0"),
        }
        for name, (holds, rule) in ranges.items():
            if not holds:
                raise ProfileError(f"{name} of a mutation is {rule}, not {getattr(self, name)!r}.")

    def fraction(self, epoch: int) -> float:
        """p when `epoch` epochs are done."""
        reached = 0 if self.method == VANILLA else sum(epoch >= milestone for milestone in self.p_milestones)
        return self.p * self.p_decay**reached

    def phases(self, epoch: int) -> tuple[Phase, ...]:
        """What is done when `epoch` epochs are done and the next has not begun; nothing where no mutation is due."""
        if self.method == STATIC or epoch > self.mutate_until:
            return ()
        due, p = epoch < self.mutate_until and epoch % self.mutate_every == 0, self.fraction(epoch)
        if self.method == EM_S:
            remove = (Phase(False, 0.0),) if epoch and (due or epoch == self.mutate_until) else ()
            return remove + ((Phase(True, -p),) if due else ())
        return (Phase(False, p), Phase(True, 0.0)) if due and epoch else ()

    @property
    def headroom(self) -> float:
        """How far below its target a layer's sparsity ever is: what the capacity of a structure must have room for."""
        return self.p if self.method == EM_S and self.mutate_until else 0.0


def units_at(name: str, scheme: Scheme, shape: Shape, base: int, offset: float) -> int:
    """Units that a layer keeps at an offset from its target sparsity, at which it keeps `base`.

    Raises:
        ProfileError: p takes all that is kept, or more is asked for than the scheme can keep; the sentence names the
            layer.
    """
    if not offset:
        return base
    kept = base * scheme.unit_size(shape) / prod(shape)
    advice = f"lower p of the mutation or change the layer's sparsity of {1 - kept:.4g}"
    if offset >= kept:
        raise ProfileError(
            f"A mutation of p = {offset:g} is not smaller than the fraction of {kept:.4g} that layer {name!r} "
            f"keeps: {advice}."
        )
    lowered = 1 - kept + offset
    if lowered < scheme.lowest - 1e-9:
        raise ProfileError(
            f"A mutation of p = {-offset:g} takes layer {name!r} to a sparsity of {lowered:.4g}, below the "
            f"{scheme.lowest:.4g} that scheme {scheme.name!r} can have: {advice}."
        )
    # Rounding empties no layer: where p is less than what is kept, a unit stays, and of a balanced scheme one a row.
    least = min(scheme.grid(shape)[0] if scheme.balanced else 1, base)
    return max(scheme.kept_units(shape, max(lowered, scheme.lowest)), least)
