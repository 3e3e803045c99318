"""What the arguments and results of a step's functions are: roles and names, so that nobody counts positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from math import prod
from typing import Any

import numpy as np

STEP, PREDICT, UPDATE = "step", "predict", "update"
"""Names of a step's functions: a training step, a prediction, and the update after a step of micro-batches."""
ENTRIES, HYPER = "entries", "hyper"
"""Names of the index array that says how many entries of its capacity a sparse layer has, and of the one vector of the
optimiser's hypers."""
LOSS, WEIGHT = "loss", "loss/weight"
"""Names of a step's loss, and of its weight."""


class Role(Enum):
    """What an argument or a result is.

    Names: of a parameter, a buffer and a gradient as in torch; of an input, a target and an output the program's own;
    of an index array and of a slot of the optimiser see `part_of`.
    """

    PARAMETER = "parameter"
    FROZEN = "frozen"  # a parameter that is not trained
    BUFFER = "buffer"
    INPUT = "input"
    TARGET = "target"
    SEED = "seed"
    INDEX = "index"
    SLOT = "slot"
    HYPER = "hyper"
    ACCUMULATOR = "accumulator"
    FIRST = "first"
    LOSS = "loss"
    WEIGHT = "weight"
    OUTPUT = "output"
    GRADIENT = "gradient"


STATE = frozenset({Role.PARAMETER, Role.BUFFER, Role.SLOT, Role.ACCUMULATOR})
"""Roles of the arguments that a function may update in place."""


def part_of(parameter: str, part: str) -> str:
    """Name of a parameter's index array or slot."""
    return f"{parameter}/{part}"


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a tensor; where it is an example's, without the batch's axis."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Arg:
    """An argument or a result. alias: of a result, the position of the argument whose memory it is; None: it has its
    own."""

    role: Role
    name: str
    shape: tuple[int, ...]
    dtype: str
    alias: int | None = None

    @property
    def bytes(self) -> int:
        """Size of the tensor."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def owner(self) -> str:
        """The parameter that an index array or a slot belongs to."""
        return self.name.rpartition("/")[0]

    @property
    def part(self) -> str:
        """Which of its parameter's index arrays or slots it is."""
        return self.name.rpartition("/")[2]

    def to_json(self) -> list[Any]:
        """[role, name, shape, dtype], and the alias where there is one."""
        return [self.role.value, self.name, list(self.shape), self.dtype, *([] if self.alias is None else [self.alias])]

    @classmethod
    def from_json(cls, value: list[Any]) -> Arg:
        """Raises ValueError, TypeError: not what `to_json` gives."""
        role, name, shape, dtype, *alias = value
        (place,) = alias or (None,)
        return cls(Role(role), str(name), tuple(map(int, shape)), str(dtype), None if place is None else int(place))


@dataclass(frozen=True)
class FunctionSignature:
    """Arguments and results of one function, in order."""

    arguments: tuple[Arg, ...]
    results: tuple[Arg, ...]

    def places(self, *roles: Role) -> dict[str, int]:
        """Positions of the arguments of these roles, by name."""
        return {arg.name: at for at, arg in enumerate(self.arguments) if arg.role in roles}

    def result_places(self, *roles: Role) -> dict[str, int]:
        """Positions of the results of these roles, by name."""
        return {arg.name: at for at, arg in enumerate(self.results) if arg.role in roles}

    def of(self, *roles: Role) -> tuple[Arg, ...]:
        """The arguments of these roles."""
        return tuple(arg for arg in self.arguments if arg.role in roles)

    @property
    def donated(self) -> frozenset[int]:
        """Positions of the arguments that the function updates in place."""
        aliases = {result.alias for result in self.results} - {None}
        return frozenset(at for at in aliases if self.arguments[at].role in STATE)

    @property
    def handed_out(self) -> dict[int, int]:
        """For each argument that is a result too, which one: {position of the argument: of the result}."""
        return {result.alias: at for at, result in enumerate(self.results) if result.alias is not None}

    def with_arguments(self, added: Iterable[Arg]) -> FunctionSignature:
        """More arguments, behind the others."""
        return replace(self, arguments=(*self.arguments, *added))

    def to_json(self) -> dict[str, Any]:
        """{"arguments", "results"}: see `Arg.to_json`."""
        return {kind: [arg.to_json() for arg in getattr(self, kind)] for kind in ("arguments", "results")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FunctionSignature:
        """Raises KeyError, ValueError, TypeError: not what `to_json` gives."""
        return cls(*(tuple(map(Arg.from_json, value[kind])) for kind in ("arguments", "results")))


StepSignature = Mapping[str, FunctionSignature]
"""By the names of the functions."""
