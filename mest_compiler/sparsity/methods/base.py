"""What a method of sparse training says of itself: when masks change, and which units are removed and grown.

A method is one file beside this one and a line in the package's table; the command line loads all of them to say what
there is, so they import NumPy, and what needs it, where they use it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mest_compiler.errors import ProfileError

from ..mutation_schedule import units_at

if TYPE_CHECKING:
    import numpy as np

    from ..mutation import Change
    from ..scheme import Scheme, Shape


class Need(Enum):
    """What a method may read of a network besides its kept units, in the words of an error."""

    IMPORTANCE = "the importance of the weights that are kept"
    DENSE_GRADIENT = "the gradients of weights that are not kept"


@dataclass(frozen=True)
class Clock:
    """Where a run is: `epoch` epochs are done of `epochs`, and `step` steps of the next one; 0: it has not begun."""

    epoch: int
    epochs: int
    step: int = 0


@dataclass(frozen=True, eq=False)
class MaskedLayer:
    """A sparse layer as a method sees it.

    shape: (F, C, kh, kw) of its weight; target: units that it keeps at its target sparsity; kept: int32, ascending, ids
    of those that it keeps now.
    """

    scheme: Scheme
    shape: Shape
    target: int
    kept: np.ndarray

    def left(self, name: str, fraction: float) -> int:
        """Units that are left of the target where a fraction of it goes, in (0, 1): at least one, and of balanced rows
        equally many. name: of the layer, for errors."""
        density = self.target * self.scheme.unit_size(self.shape) / prod(self.shape)
        return units_at(name, self.scheme, self.shape, self.target, fraction * density)


class Network(Protocol):
    """What a method may ask of the network that trains, if its `needs` say so; see `training.engine.TrainingEngine`."""

    def importance(self, coefficient: float) -> dict[str, np.ndarray]:
        """float64 [units] by layer, in the order of the kept units: Eq. 1 with the gradients of the last step."""
        ...


class MaskUpdater(ABC):
    """A method of sparse training; a dataclass of its settings, which recipes and options give by their names.

    A run makes one, asks it after every epoch and before the first, and draws all random numbers from one generator, so
    that the same seed walks through the same masks on every engine. What a method remembers from one mutation to the
    next is a field with init=False, and in `state`.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    """What it does, in some words, for the help."""
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __post_init__(self) -> None:
        """Raises ProfileError: a setting that cannot be."""
        for name, (holds, rule) in self.ranges().items():
            if not holds:
                raise ProfileError(f"{name} of method {self.name!r} is {rule}, not {getattr(self, name)!r}.")

    def ranges(self) -> dict[str, tuple[bool, str]]:
        """Of each setting whether it can be, and in words what it must be."""
        return {}

    @property
    def headroom(self) -> float:
        """How far below its target a layer's sparsity ever is: what the capacity of a structure must have room for."""
        return 0.0

    def check(self, layers: Mapping[str, MaskedLayer]) -> None:  # noqa: B027
        """Raises ProfileError or MaskError, naming the layer, where one cannot change so."""

    @abstractmethod
    def due(self, clock: Clock) -> bool:
        """Whether masks change now."""

    def changes_masks(self, epochs: int) -> bool:
        """Whether a run of so many epochs changes any mask."""
        return any(self.due(Clock(epoch, epochs)) for epoch in range(epochs))

    @abstractmethod
    def changes(
        self, layers: Mapping[str, MaskedLayer], network: Network, clock: Clock, rng: np.random.Generator
    ) -> dict[str, Change]:
        """What becomes of the layers, in whose order random numbers are drawn; those not named stay as they are."""

    def state(self) -> dict[str, Any]:
        """What a run that goes on needs of the past, as JSON values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: it is of another method.
        """
        if state:
            raise ValueError(f"method {self.name!r} has no state, and found {', '.join(state)}")

    def settings(self) -> dict[str, Any]:
        """By name."""
        return {name: getattr(self, name) for name in self.setting_names()}

    @classmethod
    def setting_names(cls) -> tuple[str, ...]:
        """Names of the settings."""
        return tuple(field.name for field in fields(cls) if field.init)

    def described(self) -> str:
        """Its name and settings, for a line about a run."""
        said = [f"{name} {value:g}" for name, value in self.settings().items() if isinstance(value, int | float)]
        return " ".join([self.name, *said])
