"""What a loss says of itself: what it is compared with, its sum and weight in PyTorch, and how right a model is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mest_compiler.errors import ModelError
from mest_compiler.signature import TensorSpec

if TYPE_CHECKING:
    import torch

INPUT, OUTPUT, TARGET = "x", "output", "y"
"""Names of a model's only input and output, and of the only target."""
LABEL = TensorSpec((), "int64")
"""A target that is the number of a class."""
ACCURACY, ERROR = "accuracy", "error"
"""Names of metrics: the share of right answers, and a mean error, which is better the smaller it is."""
METRICS = (ACCURACY, ERROR)


class Loss(ABC):
    """A loss as a sum over a batch and the weight that it is divided by: the loss of a batch in parts is that of the
    sums, whatever the parts' weights. A frozen dataclass of its settings. The compiler differentiates it with the
    model, so it is written in PyTorch alone.
    """

    name: ClassVar[str]
    metric_name: ClassVar[str]
    """What the mean of `scores` is called: ACCURACY or ERROR."""
    labelled: ClassVar[bool] = False
    """Whether its target is a LABEL, so that an example is right or wrong."""

    @abstractmethod
    def targets(self, outputs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        """What each example is compared with, by name. outputs: of an example, without the batch's axis.

        Raises:
            ModelError: it cannot be taken of such outputs.
        """

    @abstractmethod
    def sums(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | int]:
        """(sum [], weight [] or a number) of a batch's outputs and targets."""

    def mean(self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a batch, []."""
        total, weight = self.sums(outputs, targets)
        return total / weight

    def check(self, targets: Mapping[str, np.ndarray], outputs: Mapping[str, TensorSpec]) -> None:  # noqa: B027
        """Raises ModelError, one sentence: numbers that no target can be."""

    @abstractmethod
    def scores(self, outputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """[N]: of each example whether it is right (bool), or its error (float64)."""

    def facts(self) -> dict[str, Any]:
        """As JSON values: its name and settings."""
        return {"name": self.name, **asdict(self)}


def only(outputs: Mapping[str, Any], loss: str) -> Any:
    """The only output of a model; ModelError where it has several."""
    if len(outputs) != 1:
        raise ModelError(
            f"The model has the outputs {', '.join(outputs)}, and {loss} is taken of one: give a loss of your own."
        )
    return next(iter(outputs.values()))


def named(arrays: Any, name: str) -> dict[str, Any]:
    """Arrays by name, as they are, or one alone under this name."""
    return dict(arrays) if isinstance(arrays, Mapping) else {name: arrays}


def alone(arrays: Mapping[str, Any]) -> Any:
    """The only array, or all by name."""
    return dict(arrays) if len(arrays) > 1 else next(iter(arrays.values()))
