"""What makes the kernels of one family on one kind of device, and how the kernels of a layer are found among all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.problem import LayerProblem

from . import generators
from .choice import Choice
from .partial import Partial

EXPANDED, DENSE = "zeros", ""
"""Names of the families that every kind of device has."""

SPARSEST_DENSE = 0.25
"""Kept share below which the dense kernel, doing 4 times the work, is not even tried beside others."""


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


def generator(device: Any, family: str) -> Generator:
    """Of a family on a device's kind; KeyError: it has none."""
    return generators(device).GENERATORS[family]


def candidates(direction: str, device: Any, problem: LayerProblem) -> list[Choice]:
    """Kernels that compute a direction of a layer, the one that is probably the fastest first.

    A sparse layer has those of every family that serves it, and the dense one with zeros put back: where much is kept,
    and where there is no other.
    """
    made, own = generators(device).GENERATORS, {}
    for name, family in FAMILIES.items():
        if name in made and family.serves(problem, direction):
            choice = made[name].choice(direction, device, problem)
            if choice is not None:
                own[name] = choice
    if problem.sparse is None:
        return list(own.values())
    if own and problem.kept < SPARSEST_DENSE:
        return list(own.values())
    expanded = _expanded(direction, device, problem)
    likely_dense = not own or problem.kept > FAMILIES[next(iter(own))].dense_above
    return [expanded, *own.values()] if likely_dense else [*own.values(), expanded]


def _expanded(direction: str, device: Any, problem: LayerProblem) -> Choice:
    """The dense kernel, with what puts zeros back before it or takes them out behind it."""
    backend, family = generators(device), FAMILIES[EXPANDED]
    dense = backend.GENERATORS[DENSE].choice(direction, device, LayerProblem(problem.geometry))
    make = backend.zeros.compact if direction == "backward_weight" else backend.zeros.expand
    return replace(dense, family=EXPANDED, beside=Partial(make, problem, family.dtypes(problem, direction, 1)))


def space_of(choice: Choice, values: Mapping[str, Any]) -> dict[str, list[int]]:
    """A space as generators give it, of each knob's values: the choice's own first, no knob of one value."""
    own = {name: int(getattr(choice.knobs, name)) for name in values}
    found = {name: [own[name], *(n for n in some if n != own[name])] for name, some in values.items()}
    return {name: some for name, some in found.items() if len(some) > 1}
