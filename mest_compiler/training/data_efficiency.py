"""The two phases of data-efficient training: all images while forgetting is counted, then those that are needed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mest_compiler.errors import CheckpointError, MestError
from mest_compiler.training.forgetting import Forgetting
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.streams import stream

_REMOVED = "removed"


class DataEfficiency:
    """Which images a run trains on now; events are counted until images are removed, or to the end."""

    def __init__(self, recipe: Recipe, images: int) -> None:
        self._recipe = recipe
        self.forgetting = Forgetting(images)
        self.removed = np.zeros(0, np.int64)

    @property
    def _second_phase(self) -> bool:
        return len(self.removed) > 0

    @property
    def active(self) -> np.ndarray:
        """int64, ascending: numbers of the images that are trained on."""
        return np.setdiff1d(np.arange(len(self.forgetting.events)), self.removed, assume_unique=True)

    def saw(self, ids: np.ndarray, correct: np.ndarray) -> None:
        """Answers of a step to the images `ids`; see `Forgetting.saw`."""
        if not self._second_phase:
            self.forgetting.saw(ids, correct)

    def after(self, epoch: int) -> None:
        """Remove images if the first phase ends when `epoch` epochs are done.

        MestError when fewer than a batch would be left.
        """
        recipe = self._recipe
        if epoch != recipe.de_epoch:
            return
        if recipe.de_threshold is not None:
            self.removed = self.forgetting.at_most(recipe.de_threshold)
        else:
            self.removed = self.forgetting.least(recipe.de_remove, stream(recipe.seed, "removal"))
        left = len(self.active)
        if left < recipe.batch:
            raise MestError(
                f"data efficiency would leave {left} training examples after epoch {epoch}, fewer than a batch of "
                f"{recipe.batch}: lower de_threshold or de_remove"
            )

    def arrays(self) -> dict[str, np.ndarray]:
        """For a checkpoint: the counts, and the numbers of the removed images."""
        return {**self.forgetting.arrays(), _REMOVED: self.removed}

    def restore(self, arrays: Mapping[str, np.ndarray], source: str) -> None:
        """Go on from `arrays`; CheckpointError, naming `source`, when they are of something else."""
        removed = arrays.get(_REMOVED)
        if removed is None or removed.dtype != np.int64 or removed.ndim != 1 or not self._ascending(removed):
            raise CheckpointError(f"{source} does not hold which training images were removed: use another one")
        self.forgetting.restore(arrays, source)
        self.removed = removed.copy()

    def _ascending(self, ids: np.ndarray) -> bool:
        """Whether these are numbers of different training images, in order."""
        return bool(np.all(np.diff(ids, prepend=-1, append=len(self.forgetting.events)) > 0))
