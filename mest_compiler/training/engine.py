"""What the epoch loop asks of whatever computes a training step: PyTorch, or a compiled artifact."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mest_compiler.losses import Loss
from mest_compiler.runtime.named_arrays import Arrays
from mest_compiler.sparsity.methods import Need
from mest_compiler.sparsity.mutation import Change
from mest_compiler.sparsity.schemes import Scheme, Shape


class TrainingEngine(Protocol):
    """A model with its optimiser state, somewhere.

    A step must be a function of the state, its arguments and nothing else: then a run that was interrupted
    and resumed equals the uninterrupted one bit by bit.

    loss: what it computes, for the scores of its outputs; None: a function of one's own that it does not hold.
    """

    loss: Loss | None

    offers: frozenset[Need]
    """What a method of sparse training may read of the network; the same of all of a class."""

    def step(self, x: Arrays, y: Arrays, lr: float) -> tuple[float, Arrays]:
        """One training step on inputs x [N, ...] and targets y [N, ...], by name or one alone.

        Returns (mean loss, outputs [N, ...] before the update).
        """
        ...

    def predict(self, x: Arrays) -> Arrays:
        """Outputs [N, ...] in evaluation mode, for any number N of examples; changes nothing."""
        ...

    def sparse_layers(self) -> dict[str, tuple[Scheme, Shape]]:
        """Scheme and weight shape (F, C, kh, kw) of every sparse layer, by parameter name.

        Their order is that of the model's parameters, however masks or a file were ordered: mutation draws in it.
        """
        ...

    def kept_units(self) -> dict[str, np.ndarray]:
        """int32, ascending: ids of the units that each sparse layer keeps."""
        ...

    def importance(self, coefficient: float) -> dict[str, np.ndarray]:
        """float64 [units] by layer, in the order of `kept_units`: Eq. 1 with the gradients of the last step.

        MestError where there was no step since the start, a mutation or `load`.
        """
        ...

    def mutate(self, changes: Mapping[str, Change]) -> None:
        """Other units are kept from now on; what is new starts at zero, with slots of zero."""
        ...

    def state_bytes(self) -> dict[str, int]:
        """Bytes of {"weights", "gradients", "optimizer", "indices"} that the training state takes."""
        ...

    def save(self, path: Path, extra: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Write all state, `extra` (JSON values) and `arrays` to the one file `path`, in the form of
        `runtime.checkpoint`, whole or not at all."""
        ...

    def load(self, path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Take all state from a file that `save` of this or another engine wrote; returns (extra, arrays).

        CheckpointError when it is damaged or of another model.
        """
        ...
