"""Which training images a run forgot, as a report shows them: counts, a histogram, the extremes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mest_compiler.errors import CheckpointError
from mest_compiler.training.data_efficiency import DataEfficiency
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.streams import stream


class Forgotten:
    """The forgetting events of a run (see `forgetting`), read from its checkpoint.

    events: int32 [N], by the images' numbers in the training set; learned: bool [N], whether an image was ever right;
    removed: int64, numbers of the images that data efficiency left out; labels: int64 [N].
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], recipe: Recipe, labels: np.ndarray, source: str) -> None:
        """Args: arrays: of the training loop, as a checkpoint has them. source: where from, for errors.

        Raises:
            CheckpointError: they are of another training set, or no image was ever answered right.
        """
        efficiency = DataEfficiency(recipe, len(labels))
        efficiency.restore(arrays, source)
        self.events, self.learned = efficiency.forgetting.events, efficiency.forgetting.learned
        self.removed, self.labels = efficiency.removed, labels
        self._place = stream(recipe.seed, "sheet").permutation(len(labels))
        self.unforgettable = np.flatnonzero(efficiency.forgetting.unforgettable)
        if not self.learned.any():
            raise CheckpointError(f"{source} is of a run that has not learned any image yet: train it for an epoch")

    @property
    def never_learned(self) -> np.ndarray:
        """int64, ascending: numbers of the images that never were answered right; they have no event to forget."""
        return np.flatnonzero(~self.learned)

    def least(self, count: int) -> np.ndarray:
        """int64: the `count` learned images with the fewest events, of equals random ones, but always the same."""
        return self._ranked(self.learned, self.events)[:count]

    def most(self, count: int) -> np.ndarray:
        """int64: the `count` images with the most events, as in `least`; only such as were forgotten."""
        return self._ranked(self.events > 0, -self.events)[:count]

    def _ranked(self, which: np.ndarray, key: np.ndarray) -> np.ndarray:
        ids = np.flatnonzero(which)
        return ids[np.lexsort((self._place[ids], key[ids]))]

    def histogram(self) -> np.ndarray:
        """int64 [most events + 1]: how many learned images have 0, 1, 2, ... events."""
        return np.bincount(self.events[self.learned])

    def facts(self, shown: int) -> dict[str, Any]:
        """For JSON: counts, histogram, ids, and what is shown of both ends."""
        never = self.never_learned
        return {
            "images": len(self.labels),
            "learned": len(self.labels) - len(never),
            "never_learned": len(never),
            "unforgettable": len(self.unforgettable),
            "forgotten": int(np.count_nonzero(self.events)),
            "removed": len(self.removed),
            "histogram": self.histogram(),
            "least_forgettable": self._named(self.least(shown)),
            "most_forgettable": self._named(self.most(shown)),
            "ids": {"never_learned": never, "unforgettable": self.unforgettable, "removed": self.removed},
        }

    def _named(self, ids: np.ndarray) -> list[dict[str, int]]:
        return [{"id": int(i), "label": int(self.labels[i]), "events": int(self.events[i])} for i in ids]
