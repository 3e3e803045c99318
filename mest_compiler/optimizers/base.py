"""What an optimiser says of itself: which tensors it keeps of a weight, and how a step changes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mest_compiler.errors import MestError

if TYPE_CHECKING:
    import torch

Expr = Any
"""A number, or a vector of them, in a kernel; Python's operators make larger ones."""


class Math(Protocol):
    """How a device's kernels compute what operators do not say."""

    def const(self, value: float) -> Expr:
        """A number of the operands' type."""
        ...

    def sqrt(self, value: Expr) -> Expr:
        """Its square root."""
        ...

    def select(self, condition: Expr, yes: Expr, no: Expr) -> Expr:
        """The one where a comparison of numbers holds, the other elsewhere."""
        ...

    def bind(self, value: Expr) -> Expr:
        """The same, computed once however often it is read."""
        ...


class Optimizer(ABC):
    """A rule by which a step changes each weight; a frozen dataclass of its settings.

    A slot is a tensor of the weight's shape and dtype that the optimiser keeps beside it, zero at first: of a sparse
    weight compact as its values are, so a mutation carries it over with them, and what is grown has zeros. A hyper is a
    number that kernels read at run time: it costs no compiling to change one.
    """

    name: ClassVar[str]
    usual_rate: ClassVar[float]
    """Learning rate where none is asked for."""

    def __post_init__(self) -> None:
        """Raises MestError: a setting that cannot be."""
        for name, (holds, rule) in self.ranges().items():
            if not holds:
                raise MestError(f"{name} of {self.name} is {rule}, not {getattr(self, name)!r}.")

    @abstractmethod
    def ranges(self) -> dict[str, tuple[bool, str]]:
        """Of each setting whether it can be, and in words what it must be."""

    @property
    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Names of the slots."""

    @property
    @abstractmethod
    def hypers(self) -> tuple[str, ...]:
        """Names of the hypers."""

    @abstractmethod
    def hyper_values(self, step: int, lr: float) -> tuple[float, ...]:
        """The hypers of a step (1 is the first one) at a learning rate: on the host, since no device needs a power."""

    @abstractmethod
    def update(
        self, m: Math, w: Expr, g: Expr, slots: Mapping[str, Expr], h: Mapping[str, Expr]
    ) -> tuple[Expr, dict[str, Expr]]:
        """The new weight and the new slots, from the old ones and the gradient; h: hypers."""

    def torch(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The same in PyTorch: `update` on tensors, unless PyTorch has one of its own."""
        from .in_torch import TorchOptimizer

        return TorchOptimizer(parameters, self)

    @property
    def torch_keys(self) -> Mapping[str, str]:
        """What torch's optimiser calls each slot in its state; of PyTorch's own, a class attribute."""
        return {slot: slot for slot in self.slots}

    def torch_state(self, parameter: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
        """What torch's optimiser holds of a parameter before its first step here, after `steps` of another process."""
        import torch

        slots = {self.torch_keys[slot]: torch.zeros_like(parameter) for slot in self.slots}
        return {"step": torch.tensor(float(steps)), **slots}

    def facts(self) -> dict[str, Any]:
        """As JSON values: its name and settings."""
        settings = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"name": self.name, **settings}

    @classmethod
    def from_facts(cls, settings: Mapping[str, Any]) -> Optimizer:
        """From settings by name; those of other optimisers are left."""
        known = {field.name for field in fields(cls)}
        found = {key: value for key, value in settings.items() if key in known}
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in found.items()})
