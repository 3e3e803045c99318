"""What makes the kernels of one family on one kind of device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mest_compiler.kernels.problem import LayerProblem

from .choice import Choice


class Generator(Protocol):
    """A family's kernels on a kind of device; a backend lists its generators by the names of their families."""

    def choice(self, direction: str, device: Any, problem: LayerProblem) -> Choice | None:
        """The kernel with its default knobs; None: not worth a try for this layer.

        Raises:
            DeviceError: the device's limits forbid it.
        """
        ...

    def space(self, direction: str, choice: Choice, device: Any, problem: LayerProblem) -> dict[str, list[int]]:
        """Knob -> values to try, whole numbers, the choice's own first; knobs of one value are left out."""
        ...

    def refusal(self, direction: str, choice: Choice, device: Any, problem: LayerProblem) -> str | None:
        """Why a choice is beyond the device's limits, or not worth building; None: it is neither."""
        ...


def space_of(choice: Choice, values: Mapping[str, Any]) -> dict[str, list[int]]:
    """A space as generators give it, of each knob's values: the choice's own first, no knob of one value."""
    own = {name: int(getattr(choice.knobs, name)) for name in values}
    found = {name: [own[name], *(n for n in some if n != own[name])] for name, some in values.items()}
    return {name: some for name, some in found.items() if len(some) > 1}
