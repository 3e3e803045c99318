"""Random crops of any size and shape, scaled to one size: the augmentation that ImageNet results are published with."""

import math
from dataclasses import dataclass

import numpy as np

# Of the image's area, and width to height (Szegedy et al., "Going deeper with convolutions", section 6).
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
# How often a crop that does not fit into the image is drawn again before the largest one in its middle is taken.
TRIES = 10

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ResizedCrops:
    """How each of n images is cropped, whatever its size.

    area, ratio: float64 [n, TRIES], shares of the image's area and ratios of width to height to be tried in turn; top,
    left: float64 [n] in [0, 1), where between its outermost places the crop is; mirrored: bool [n].
    """

    area: np.ndarray
    ratio: np.ndarray
    top: np.ndarray
    left: np.ndarray
    mirrored: np.ndarray

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> "ResizedCrops":
        """Random crops of n images, half of them mirrored; ratios are uniform in their logarithm."""
        return cls(
            rng.uniform(*AREA, size=(n, TRIES)),
            np.exp(rng.uniform(*np.log(RATIO), size=(n, TRIES))),
            rng.random(n),
            rng.random(n),
            rng.random(n) < 0.5,
        )

    def of(self, share: slice) -> "ResizedCrops":
        """The crops of some of the images."""
        return ResizedCrops(
            self.area[share], self.ratio[share], self.top[share], self.left[share], self.mirrored[share]
        )

    def box(self, i: int, width: int, height: int) -> Box:
        """Left, upper, right, lower of image i's crop, in pixels, right and lower not included."""
        for area, ratio in zip(self.area[i], self.ratio[i], strict=True):
            across = round(math.sqrt(width * height * area * ratio))
            down = round(math.sqrt(width * height * area / ratio))
            if 0 < across <= width and 0 < down <= height:
                left = int(self.left[i] * (width - across + 1))
                upper = int(self.top[i] * (height - down + 1))
                return left, upper, left + across, upper + down
        return _middle(width, height)


def _middle(width: int, height: int) -> Box:
    """The largest box in the middle whose ratio is allowed."""
    across = min(width, round(height * RATIO[1]))
    down = min(height, round(width / RATIO[0]))
    left, upper = (width - across) // 2, (height - down) // 2
    return left, upper, left + across, upper + down
