"""Which images the two phases of data-efficient training train on."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from mest_compiler.errors import CheckpointError, MestError
from mest_compiler.runtime.checkpoint import read
from mest_compiler.training.data_efficiency import DataEfficiency
from mest_compiler.training.loop import train
from mest_compiler.training.progress import QuietReporter
from mest_compiler.training.recipe import Recipe

IMAGES = 12


def recipe(**options):
    return Recipe(model="m", data="d", epochs=9, batch=4, de_epoch=3, **options)


def seen(efficiency, *epochs):
    """Every image answered in every epoch: right where its number is named."""
    for right in epochs:
        efficiency.saw(np.arange(IMAGES), np.isin(np.arange(IMAGES), right))


@pytest.fixture
def epochs():
    """Answers of three epochs: 0 to 3 never forgotten, 4 to 6 once, 7 twice, 8 on never learned."""
    return [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 7], [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("threshold", "removed"), [(0, [0, 1, 2, 3]), (1, [0, 1, 2, 3, 4, 5, 6]), (2, [0, 1, 2, 3, 4, 5, 6, 7])]
)
def test_a_threshold_removes_what_was_forgotten_at_most_so_often(epochs, threshold, removed):
    found = DataEfficiency(recipe(de_threshold=threshold), IMAGES)
    seen(found, *epochs)
    for epoch in (1, 2):
        found.after(epoch)
        np.testing.assert_array_equal(found.active, np.arange(IMAGES))
    found.after(3)
    np.testing.assert_array_equal(found.removed, removed)
    np.testing.assert_array_equal(found.active, np.setdiff1d(np.arange(IMAGES), removed))
    assert found.removed.dtype == found.active.dtype == np.int64
    found.after(4)
    np.testing.assert_array_equal(found.removed, removed)


def test_a_number_removes_so_many_and_never_what_was_not_learned(epochs):
    for count, removed in ((3, 3), (4, 4), (8, 8), (100, 8)):
        found = DataEfficiency(recipe(de_remove=count), IMAGES)
        seen(found, *epochs)
        found.after(3)
        assert len(found.removed) == removed and found.removed.max() < 8
        assert count > 4 or found.removed.max() < 4
        again = DataEfficiency(recipe(de_remove=count), IMAGES)
        seen(again, *epochs)
        again.after(3)
        np.testing.assert_array_equal(again.removed, found.removed)


def test_events_are_counted_until_images_are_removed(epochs):
    found = DataEfficiency(recipe(de_threshold=0), IMAGES)
    seen(found, *epochs)
    found.after(3)
    before = found.forgetting.events.copy()
    seen(found, [], [0], [])
    np.testing.assert_array_equal(found.forgetting.events, before)


def test_where_nothing_was_learned_nothing_is_removed_and_counting_goes_on():
    found = DataEfficiency(recipe(de_remove=5), IMAGES)
    seen(found, [], [])
    found.after(3)
    assert found.removed.shape == (0,)
    seen(found, [2], [])
    np.testing.assert_array_equal(found.forgetting.events, np.arange(IMAGES) == 2)
    resumed = DataEfficiency(recipe(de_remove=5), IMAGES)
    resumed.restore(found.arrays(), "here")
    for one in (found, resumed):
        seen(one, [2], [])
        one.after(4)
    np.testing.assert_array_equal(resumed.forgetting.events, found.forgetting.events)
    np.testing.assert_array_equal(resumed.active, np.arange(IMAGES))


def test_without_data_efficiency_all_images_stay(epochs):
    found = DataEfficiency(Recipe(model="m", data="d", epochs=9, batch=4), IMAGES)
    seen(found, *epochs)
    for epoch in range(1, 10):
        found.after(epoch)
    np.testing.assert_array_equal(found.active, np.arange(IMAGES))
    np.testing.assert_array_equal(np.flatnonzero(found.forgetting.unforgettable), [0, 1, 2, 3])


def test_too_few_images_left():
    found = DataEfficiency(recipe(de_remove=9), IMAGES)
    seen(found, list(range(IMAGES)))
    with pytest.raises(MestError, match="leave 3 training examples after epoch 3, fewer than a batch of 4: lower"):
        found.after(3)


def test_a_removal_is_restored(epochs):
    found = DataEfficiency(recipe(de_threshold=0), IMAGES)
    seen(found, *epochs)
    found.after(3)
    again = DataEfficiency(recipe(de_threshold=0), IMAGES)
    again.restore({name: array.copy() for name, array in found.arrays().items()}, "here")
    np.testing.assert_array_equal(again.active, found.active)
    seen(again, [])
    np.testing.assert_array_equal(again.forgetting.events, found.forgetting.events)


def test_counts_of_another_training_set_change_nothing(epochs):
    other = DataEfficiency(recipe(de_threshold=0), IMAGES + 1)
    found = DataEfficiency(recipe(de_threshold=0), IMAGES)
    seen(found, *epochs)
    found.after(3)
    active, events = found.active, found.forgetting.events.copy()
    for arrays in (other.arrays(), {}, found.arrays() | {"removed": np.array([IMAGES])}):
        with pytest.raises(CheckpointError, match=r"^here .* use another one"):
            found.restore(arrays, "here")
    np.testing.assert_array_equal(found.active, active)
    np.testing.assert_array_equal(found.forgetting.events, events)


def test_a_run_trains_on_what_is_left(new_engine, data, recipe, tmp_path):
    """The counts of a whole run are those of its own answers, and removed images are never seen again."""
    recipe = dataclasses.replace(recipe, epochs=5, lr=0.01, de_epoch=3, de_threshold=0, augment=False)
    shown = []

    class Watched(type(new_engine())):
        def step(self, x, y, lr):
            loss, logits = super().step(x, y, lr)
            shown.append((x["x"].copy(), logits.argmax(1) == y["y"]))
            return loss, logits

    engine = new_engine()
    engine.__class__ = Watched
    summary = train(engine, data, recipe, tmp_path, resume=False, reporter=QuietReporter())
    number = {image.tobytes(): i for i, image in enumerate(data.train_x)}
    answers = [
        [(number[image.tobytes()], right) for image, right in zip(x, correct, strict=True)] for x, correct in shown
    ]
    histories = {i: [] for i in range(len(data.train_y))}
    for step in answers[:18]:  # three epochs of six steps
        for image, right in step:
            histories[image].append(right)
    events = {i: sum(a and not b for a, b in pairwise(h)) for i, h in histories.items()}
    removed = [i for i, h in histories.items() if any(h) and not events[i]]
    assert 0 < len(removed) <= 84
    arrays = read(tmp_path / "checkpoint.safetensors", None).arrays
    np.testing.assert_array_equal(arrays["removed"], removed)
    np.testing.assert_array_equal(arrays["events"], list(events.values()))
    assert not {image for step in answers[18:] for image, _ in step} & set(removed)
    assert [record.examples for record in summary.records] == [100] * 3 + [100 - len(removed)] * 2
    assert summary.records[2].unforgettable == summary.records[4].unforgettable == len(removed)
    left = (100 - len(removed)) // 16
    assert len(shown) == 18 + 2 * left
