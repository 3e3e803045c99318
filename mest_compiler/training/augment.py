"""Random crops and flips of a batch: the augmentation that CIFAR results are published with."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """How the images of a data set may be moved.

    padding: pixels added on each side before the random crop back to the image's size; flip: whether an image
    may be mirrored left to right (half of them are).
    """

    padding: int
    flip: bool


@dataclass(frozen=True)
class Moves:
    """How each of n images is moved: top, left: int [n], corner of the crop in the padded image; mirrored: bool [n]."""

    top: np.ndarray
    left: np.ndarray
    mirrored: np.ndarray

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator, augmentation: Augmentation) -> "Moves":
        """Random crops of n images, half of them mirrored if the augmentation says so."""
        p = augmentation.padding
        return cls(
            rng.integers(0, 2 * p + 1, size=n),
            rng.integers(0, 2 * p + 1, size=n),
            rng.random(n) < 0.5 if augmentation.flip else np.zeros(n, dtype=bool),
        )

    def of(self, share: slice) -> "Moves":
        """The moves of some of the images."""
        return Moves(self.top[share], self.left[share], self.mirrored[share])


def augment(x: np.ndarray, moves: Moves, padding: int, fill: np.ndarray | float = 0.0) -> np.ndarray:
    """Crop every image out of its padded self and mirror it, as `moves` says.

    x: float [N, C, H, W]; fill: the value of padded pixels, one number or [C] (black, in normalised units, as
    in the usual pipeline, which pads before it normalises). Returns a new array of x's shape and dtype.
    """
    n, channels, height, width = x.shape
    p = padding
    padded = np.empty((n, channels, height + 2 * p, width + 2 * p), dtype=x.dtype)
    padded[...] = np.broadcast_to(np.asarray(fill, dtype=x.dtype), channels)[:, None, None]
    padded[:, :, p : p + height, p : p + width] = x

    rows = moves.top[:, None] + np.arange(height)
    columns = np.arange(width)
    columns = moves.left[:, None] + np.where(moves.mirrored[:, None], columns[::-1], columns)
    image = np.arange(n)[:, None, None, None]
    channel = np.arange(channels)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
