"""What the epoch loop asks of whatever computes a training step: PyTorch, or a compiled artifact."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Backend(Protocol):
    """A model with its optimiser state, somewhere.

    A step must be a function of the state, its arguments and nothing else: then a run that was interrupted
    and resumed equals the uninterrupted one bit by bit.
    """

    def step(self, x: np.ndarray, y: np.ndarray, lr: float) -> tuple[float, np.ndarray]:
        """One training step on x float32 [N, C, H, W], y int64 [N].

        Returns (mean loss, logits [N, classes] before the update).
        """
        ...

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Logits [N, classes] in evaluation mode, for any number N of examples; changes nothing."""
        ...

    def save(self, path: Path, extra: dict[str, Any]) -> None:
        """Write all state and `extra` (JSON values) to the one file `path`."""
        ...

    def load(self, path: Path) -> dict[str, Any]:
        """Take all state from a file of `save`, return its `extra`.

        CheckpointError when it is damaged or of another model.
        """
        ...
