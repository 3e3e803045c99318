"""Which training images a network forgets, and which it can do without (paper, section 4 and Appendix F).

A forgetting event of an image: it was answered right when it was last seen, and now is wrong. Predictions are those of
the training steps, as they come. An image that was learned and never forgotten is unforgettable; one that never was
learned is not. The paper's Eq. 2 is misprinted: images with at most `threshold` events are the ones that are removed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mest_compiler.errors import CheckpointError


class Forgetting:
    """Counts over the images of a training set, by their number in it.

    events: int32 [N]; learned: bool [N], whether an image was ever right; right: bool [N], whether it was when it was
    last seen.
    """

    def __init__(self, images: int) -> None:
        self.events = np.zeros(images, np.int32)
        self.learned = np.zeros(images, np.bool_)
        self.right = np.zeros(images, np.bool_)

    def saw(self, ids: np.ndarray, correct: np.ndarray) -> None:
        """The images `ids`, int [n], each at most once, were answered right or not: `correct`, bool [n]."""
        self.events[ids] += self.right[ids] & ~correct
        self.learned[ids] |= correct
        self.right[ids] = correct

    @property
    def unforgettable(self) -> np.ndarray:
        """bool [N]."""
        return self.learned & (self.events == 0)

    def at_most(self, threshold: int) -> np.ndarray:
        """int64, ascending: the learned images that were forgotten at most so often."""
        return np.flatnonzero(self.learned & (self.events <= threshold))

    def least(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """int64, ascending: the `count` learned images that were forgotten least, of equals random ones.

        All learned images where there are fewer.
        """
        noise = rng.random(len(self.events))
        ranked = np.lexsort((noise, self.events))
        return np.sort(ranked[self.learned[ranked]][:count])

    def arrays(self) -> dict[str, np.ndarray]:
        """All counts, for a checkpoint."""
        return {"events": self.events, "learned": self.learned, "right": self.right}

    def restore(self, arrays: Mapping[str, np.ndarray], source: str) -> None:
        """Go on from `arrays`; CheckpointError, naming `source`, when they are of something else."""
        for name, own in self.arrays().items():
            stored = arrays.get(name)
            if stored is None or stored.shape != own.shape or stored.dtype != own.dtype:
                raise CheckpointError(f"{source} holds no forgetting events of this training set: use another one")
        for name, own in self.arrays().items():
            own[...] = arrays[name]
