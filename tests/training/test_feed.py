"""The order of examples, its position-keyed randomness, and the thread that works ahead."""

import threading

import numpy as np
import pytest

from mest_compiler.errors import DataError
from mest_compiler.training.feed import batches, epoch_batches, one_ahead
from mest_compiler.training.streams import stream


def test_batches_visit_every_example_at_most_once():
    chosen = list(batches(103, 10, np.random.default_rng(0)))
    assert [len(b) for b in chosen] == [10] * 10
    assert len(np.unique(np.concatenate(chosen))) == 100


def test_fewer_examples_than_a_batch_is_an_error():
    with pytest.raises(DataError, match="9 examples, fewer than one batch of 10"):
        list(batches(9, 10, np.random.default_rng(0)))


def test_an_epoch_entered_in_its_middle_goes_on_with_the_same_batches(data):
    def epoch(first_step: int, number: int = 4):
        return list(epoch_batches(data, 16, seed=1, epoch=number, first_step=first_step, augmented=True))

    whole, rest = epoch(0), epoch(4)
    assert len(whole) == 6
    for (x, y), (x_again, y_again) in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(x, x_again)
        np.testing.assert_array_equal(y, y_again)
    assert not np.array_equal(epoch(0, number=5)[0][0], whole[0][0])


def test_batches_are_plain_examples_without_augmentation(data):
    x, y = next(epoch_batches(data, 16, seed=1, epoch=0, augmented=False))
    where = stream(1, "order", 0).permutation(100)[:16]
    np.testing.assert_array_equal(x, data.train_x[where])
    np.testing.assert_array_equal(y, data.train_y[where])


def test_streams_differ_by_every_part_of_their_key():
    keys = [(0, "order", 1), (1, "order", 1), (0, "augment", 1), (0, "order", 2), (0, "order", 1, 0)]
    drawn = {stream(*key).integers(2**60) for key in keys}
    assert len(drawn) == len(keys)


def test_one_ahead_keeps_order_and_works_on_another_thread():
    made = list(one_ahead(lambda step: (step, threading.current_thread().name), range(3, 8)))
    assert [step for step, _ in made] == [3, 4, 5, 6, 7]
    assert all(name.startswith("mest-batches") for _, name in made)
    assert list(one_ahead(str, range(0))) == []


def test_one_ahead_raises_at_the_step_that_failed():
    seen = []
    with pytest.raises(ZeroDivisionError):
        for value in one_ahead(lambda step: 6 // (2 - step), range(5)):
            seen.append(value)
    assert seen == [3, 6]


def test_a_closed_feed_leaves_no_thread():
    feed = one_ahead(str, range(5))
    next(feed)
    feed.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("mest-batches")]
