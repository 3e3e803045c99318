"""Crops and flips, against the plain way of doing them one image at a time."""

import numpy as np

from mest_compiler.training.augment import Augmentation, augment


def crops(image: np.ndarray, padding: int, fill: np.ndarray, flip: bool) -> list[np.ndarray]:
    """All images that `image` [C, H, W] may become."""
    channels, height, width = image.shape
    padded = np.broadcast_to(fill[:, None, None], (channels, height + 2 * padding, width + 2 * padding)).copy()
    padded[:, padding : padding + height, padding : padding + width] = image
    places = range(2 * padding + 1)
    cut = [padded[:, i : i + height, j : j + width] for i in places for j in places]
    return cut + [c[:, :, ::-1] for c in cut] if flip else cut


def test_every_image_is_one_of_its_crops_and_all_are_drawn():
    rng = np.random.default_rng(0)
    image, fill = rng.normal(size=(3, 4, 5)).astype(np.float32), np.array([-1, -2, -3], np.float32)
    for flip in (False, True):
        possible = {c.tobytes() for c in crops(image, 1, fill, flip)}
        moved = augment(np.stack([image] * 400), rng, Augmentation(padding=1, flip=flip), fill)
        assert moved.dtype == np.float32
        assert {np.ascontiguousarray(m).tobytes() for m in moved} == possible


def test_half_of_the_images_are_mirrored():
    x = np.broadcast_to(np.arange(4, dtype=np.float32), (1000, 1, 4, 4))
    moved = augment(x, np.random.default_rng(0), Augmentation(padding=0, flip=True))
    assert 450 < np.count_nonzero(moved[:, 0, 0, 0] == 3) < 550


def test_the_same_generator_moves_the_same_way():
    x = np.random.default_rng(1).normal(size=(16, 1, 8, 8)).astype(np.float32)
    before = x.copy()
    first, second = (augment(x, np.random.default_rng(5), Augmentation(2, True)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(x, before)
