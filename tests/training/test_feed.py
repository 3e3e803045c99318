"""The order of examples, its position-keyed randomness, the shares of several processes, and the thread ahead."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mest_compiler.training.feed as feed_module
from mest_compiler.errors import DataError
from mest_compiler.training.feed import AHEAD, batches, epoch_batches, made_ahead
from mest_compiler.training.streams import stream

ALL = slice(None)
# So long, and only where something is broken, does a test wait for another thread.
SECONDS = 60


def test_batches_visit_every_example_at_most_once():
    chosen = list(batches(103, 10, np.random.default_rng(0)))
    assert [len(b) for b in chosen] == [10] * 10
    assert len(np.unique(np.concatenate(chosen))) == 100


def test_fewer_examples_than_a_batch_is_an_error():
    with pytest.raises(DataError, match="9 examples, fewer than one batch of 10"):
        list(batches(9, 10, np.random.default_rng(0)))


def test_an_epoch_entered_in_its_middle_goes_on_with_the_same_batches(data):
    def epoch(first_step: int, number: int = 4):
        active = np.arange(100)
        return list(
            epoch_batches(
                data, 16, active=active, share=ALL, seed=1, epoch=number, first_step=first_step, augmented=True
            )
        )

    whole, rest = epoch(0), epoch(4)
    assert len(whole) == 6
    for batch, again in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(batch.ids, again.ids)
        np.testing.assert_array_equal(batch.inputs["x"], again.inputs["x"])
        np.testing.assert_array_equal(batch.targets["y"], again.targets["y"])
    assert not np.array_equal(epoch(0, number=5)[0].inputs["x"], whole[0].inputs["x"])


def test_batches_are_plain_examples_without_augmentation(data):
    feed = epoch_batches(data, 16, active=np.arange(100), share=ALL, seed=1, epoch=0, augmented=False)
    batch = next(feed)
    feed.close()
    where = stream(1, "order", 0).permutation(100)[:16]
    np.testing.assert_array_equal(batch.ids, where)
    np.testing.assert_array_equal(batch.inputs["x"], data.train_x[where])
    np.testing.assert_array_equal(batch.targets["y"], data.train_y[where])


def test_only_active_examples_are_visited(data):
    active = np.arange(1, 100, 3)
    feed = list(epoch_batches(data, 11, active=active, share=ALL, seed=1, epoch=0, augmented=True))
    visited = np.concatenate([batch.ids for batch in feed])
    np.testing.assert_array_equal(np.sort(visited), active)
    for batch in feed:
        np.testing.assert_array_equal(batch.targets["y"], data.train_y[batch.ids])


# The data set is never written to, so one for all examples does.
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    processes=st.integers(1, 5),
    each=st.integers(1, 8),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 3),
    augmented=st.booleans(),
)
def test_shares_together_are_the_batches_of_one_process(data, processes, each, seed, epoch, augmented):
    batch = processes * each

    def feed(share):
        return epoch_batches(
            data, batch, active=np.arange(0, 100, 2), share=share, seed=seed, epoch=epoch, augmented=augmented
        )

    shares = [slice(rank * each, (rank + 1) * each) for rank in range(processes)]
    for whole, *parts in zip(feed(ALL), *map(feed, shares), strict=True):
        for part in parts:
            np.testing.assert_array_equal(part.ids, whole.ids)
        np.testing.assert_array_equal(np.concatenate([part.inputs["x"] for part in parts]), whole.inputs["x"])
        np.testing.assert_array_equal(np.concatenate([part.targets["y"] for part in parts]), whole.targets["y"])


def test_streams_differ_by_every_part_of_their_key():
    keys = [(0, "order", 1), (1, "order", 1), (0, "augment", 1), (0, "order", 2), (0, "order", 1, 0)]
    drawn = {stream(*key).integers(2**60) for key in keys}
    assert len(drawn) == len(keys)


@pytest.mark.parametrize("steps", [range(0), range(1), range(3, 3 + AHEAD), range(3, 20), range(0, 20, 3)])
def test_steps_come_in_order_from_another_thread(steps):
    made = list(made_ahead(lambda step: (step, threading.current_thread().name), steps))
    assert [step for step, _ in made] == list(steps)
    assert all(name.startswith("mest-batches") for _, name in made)


def test_batches_are_made_while_the_consumer_holds_one_and_no_more_than_a_few():
    began = [threading.Event() for _ in range(10)]
    let_go = threading.Event()

    def slow(step: int) -> int:
        began[step].set()
        if step == 2:
            assert let_go.wait(SECONDS)
        return step

    feed = made_ahead(slow, range(10))
    assert next(feed) == 0
    # The consumer holds step 0 and does not ask for more: step 1 is made and 2 is being made meanwhile.
    assert began[2].wait(SECONDS)
    let_go.set()
    assert began[AHEAD].wait(SECONDS)
    assert next(feed) == 1
    assert began[AHEAD + 1].wait(SECONDS)
    # Nobody has asked for what would make room for it.
    assert not began[AHEAD + 2].is_set()
    assert list(feed) == list(range(2, 10))


def test_an_error_is_raised_at_the_step_that_failed():
    seen = []
    with pytest.raises(ZeroDivisionError):
        for value in made_ahead(lambda step: 6 // (2 - step), range(8)):
            seen.append(value)
    assert seen == [3, 6]
    assert not batch_threads()


def test_a_closed_feed_leaves_no_thread_and_makes_nothing_more(monkeypatch):
    made = []
    second, dropped = threading.Event(), threading.Event()

    class Watched(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            dropped.set()
            super().shutdown(wait=wait)

    def slow(step: int) -> int:
        made.append(step)
        if step == 1:
            second.set()
            assert dropped.wait(SECONDS)
        return step

    monkeypatch.setattr(feed_module, "ThreadPoolExecutor", Watched)
    feed = made_ahead(slow, range(10))
    next(feed)
    assert second.wait(SECONDS)
    # Closed while step 1 is being made and others wait for the thread.
    feed.close()
    assert made == [0, 1]
    assert not batch_threads()


def test_ctrl_c_in_the_consumer_ends_the_thread():
    with pytest.raises(KeyboardInterrupt):
        interrupted(made_ahead(str, range(50)))
    assert not batch_threads()


def interrupted(feed):
    try:
        for value in feed:
            if value == "4":
                raise KeyboardInterrupt
    finally:
        feed.close()


def batch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("mest-batches")]
