"""Crops and flips, against the plain way of doing them one image at a time."""

import numpy as np
import pytest

from mest_compiler.training.augment import Augmentation, Moves, augment


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
        moves = Moves.draw(400, rng, Augmentation(padding=1, flip=flip))
        moved = augment(np.stack([image] * 400), moves, 1, fill)
        assert moved.dtype == np.float32
        assert {np.ascontiguousarray(m).tobytes() for m in moved} == possible


def test_an_image_is_moved_as_its_moves_say():
    image = np.arange(20, dtype=np.float32).reshape(1, 4, 5)
    moves = Moves(np.array([0, 2, 1]), np.array([1, 0, 2]), np.array([False, True, False]))
    moved = augment(np.stack([image] * 3), moves, 1, -1.0)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    np.testing.assert_array_equal(moved[0], padded[:, 0:4, 1:6])
    np.testing.assert_array_equal(moved[1], padded[:, 2:6, 0:5][:, :, ::-1])
    np.testing.assert_array_equal(moved[2], padded[:, 1:5, 2:7])


def test_half_of_the_images_are_mirrored():
    moves = Moves.draw(1000, np.random.default_rng(0), Augmentation(padding=0, flip=True))
    assert 450 < np.count_nonzero(moves.mirrored) < 550
    assert not Moves.draw(1000, np.random.default_rng(0), Augmentation(padding=0, flip=False)).mirrored.any()


def test_the_same_generator_moves_the_same_way():
    x = np.random.default_rng(1).normal(size=(16, 1, 8, 8)).astype(np.float32)
    before = x.copy()
    first, second = (augment(x, Moves.draw(16, np.random.default_rng(5), Augmentation(2, True)), 2) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("share", [slice(0, 3), slice(3, 8), slice(1, 8, 2)])
def test_a_share_of_the_moves_moves_a_share_of_the_images(share):
    x = np.random.default_rng(1).normal(size=(8, 2, 6, 6)).astype(np.float32)
    moves = Moves.draw(8, np.random.default_rng(5), Augmentation(2, True))
    np.testing.assert_array_equal(augment(x[share], moves.of(share), 2), augment(x, moves, 2)[share])
