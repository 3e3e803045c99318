"""Forgetting events against a replay of every image's own history."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mest_compiler.errors import CheckpointError
from mest_compiler.training.forgetting import Forgetting

IMAGES = 7
# Epochs of answers: None where an image was not seen, as happens to those beyond the last whole batch.
histories = st.lists(st.lists(st.sampled_from([True, False, None]), min_size=IMAGES, max_size=IMAGES), max_size=12)
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")


def replayed(history, seed=0):
    """A `Forgetting` that has seen the history in batches of three, in a random order."""
    found, rng = Forgetting(IMAGES), np.random.default_rng(seed)
    for answers in history:
        seen = rng.permutation([image for image in range(IMAGES) if answers[image] is not None])
        for start in range(0, len(seen), 3):
            ids = seen[start : start + 3].astype(np.int64)
            found.saw(ids, np.array([answers[image] for image in ids]))
    return found


def of_image(history, image):
    """(events, learned) by definition, from the answers to one image."""
    answers = [epoch[image] for epoch in history if epoch[image] is not None]
    events = sum(before and not now for before, now in pairwise(answers))
    return events, any(answers)


@given(histories, st.integers(0, 5), st.integers(0, 2**32))
def test_definitions(history, threshold, seed):
    found = replayed(history, seed)
    events, learned = map(np.array, zip(*(of_image(history, image) for image in range(IMAGES)), strict=True))
    np.testing.assert_array_equal(found.events, events)
    np.testing.assert_array_equal(found.learned, learned)
    np.testing.assert_array_equal(found.unforgettable, learned & (events == 0))
    np.testing.assert_array_equal(found.at_most(threshold), np.flatnonzero(learned & (events <= threshold)))
    np.testing.assert_array_equal(found.at_most(0), np.flatnonzero(found.unforgettable))
    assert found.at_most(threshold).dtype == np.int64


@given(histories, st.integers(0, IMAGES + 2), st.integers(0, 2**32))
def test_the_least_forgotten(history, count, seed):
    found = replayed(history)
    least = found.least(count, np.random.default_rng(seed))
    assert least.dtype == np.int64 and np.all(np.diff(least) > 0)
    assert found.learned[least].all()
    assert len(least) == min(count, found.learned.sum())
    others = np.setdiff1d(np.flatnonzero(found.learned), least)
    if len(least) and len(others):
        assert found.events[least].max() <= found.events[others].min()
    np.testing.assert_array_equal(least, found.least(count, np.random.default_rng(seed)))


def test_of_equals_random_ones_are_taken():
    found = Forgetting(10)
    found.saw(np.arange(9), np.ones(9, bool))
    found.saw(np.array([8]), np.array([False]))
    drawn = np.zeros(10)
    for seed in range(2000):
        drawn[found.least(2, np.random.default_rng(seed))] += 1
    assert not drawn[8:].any()  # forgotten once, and never learned
    assert np.abs(drawn[:8] / 2000 - 0.25).max() < 0.05


@given(histories, st.integers(0, 12))
def test_counts_go_on_where_they_were(history, cut):
    first = replayed(history[:cut])
    whole, resumed = Forgetting(IMAGES), Forgetting(IMAGES)
    resumed.restore({name: array.copy() for name, array in first.arrays().items()}, "here")
    for found, epochs in ((whole, history), (resumed, history[cut:])):
        for answers in epochs:
            ids = np.array([image for image in range(IMAGES) if answers[image] is not None], np.int64)
            found.saw(ids, np.array([answers[image] for image in ids], bool))
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], array)


@pytest.mark.parametrize(
    "change",
    [
        {"events": np.zeros(6, np.int32)},
        {"events": np.zeros(7, np.int64)},
        {"right": np.zeros(7, np.uint8)},
        {"learned": None},
    ],
    ids=["another size", "int64", "uint8", "missing"],
)
def test_counts_of_other_images_change_nothing(change):
    found = replayed([[True, False, None, True, True, True, True]])
    before = {name: array.copy() for name, array in found.arrays().items()}
    others = replayed([[False] * IMAGES]).arrays() | change
    with pytest.raises(CheckpointError, match="here holds no forgetting events of this training set"):
        found.restore({name: array for name, array in others.items() if array is not None}, "here")
    for name, array in before.items():
        np.testing.assert_array_equal(found.arrays()[name], array)
