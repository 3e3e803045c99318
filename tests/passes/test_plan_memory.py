"""The arena's planner: what lives at the same time never overlaps, and little room is wasted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mest_compiler.passes.plan_memory import ALIGNMENT, PAGE, Block, alive, place, share

WASTE, MEAN_WASTE = 1.35, 1.04
"""Times the most that lives at the same time: what placing random blocks may take (1.26 was the most in 3,000 draws,
and half of them took no more than had to be), and what it may take on average."""
LAST_STEP = 40


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """Any block; many are small or of equal size, as those of a network are."""
    size = draw(st.one_of(st.integers(0, 3 * ALIGNMENT), st.sampled_from([4096, 65536]), st.integers(1, 1 << 40)))
    first = draw(st.integers(0, LAST_STEP))
    return Block(size, first, draw(st.integers(first, LAST_STEP)))


def random_blocks(seed: int) -> list[Block]:
    """20 to 199 blocks without a pattern: sizes over three powers of ten, lives short and long."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(20, 200))
    sizes = (10 ** rng.uniform(3, 6, count)).astype(int)
    first = rng.integers(0, count, count)
    last = first + rng.integers(0, rng.integers(1, count + 1), count)
    return [Block(*map(int, found)) for found in zip(sizes, first, last, strict=True)]


def nested(depth: int) -> list[Block]:
    """A step's own form: what is written on the way forward is read on the way back, the last first, and each step
    needs room of its own."""
    waiting = [Block(1000 * (1 + n % 3), n, 2 * depth - n) for n in range(depth)]
    return waiting + [Block(1500, n, n + 1) for n in range(2 * depth)]


def overlapping(given: list[Block], offsets: list[int]) -> list[tuple[int, int]]:
    """Every two blocks that share a byte at some step."""
    rows = [(b.first, b.last + 1, at, at + b.size) for b, at in zip(given, offsets, strict=True)]
    first, last, begin, end = np.array(rows, np.int64).reshape(-1, 4).T

    def meet(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        return (start[:, None] < stop) & (start < stop[:, None])

    return [(int(a), int(b)) for a, b in np.argwhere(np.tril(meet(first, last) & meet(begin, end), -1))]


def live_bytes(given: list[Block]) -> list[int]:
    """Bytes that live at each step, as they were asked for."""
    last = max((b.last for b in given), default=-1)
    return [sum(b.size for b in given if b.first <= step <= b.last) for step in range(last + 1)]


def check(given: list[Block]) -> int:
    """Fails unless the blocks are placed rightly; the bytes they span."""
    offsets, total = place(given)
    assert len(offsets) == len(given)
    placed = list(zip(given, offsets, strict=True))
    assert all(offset >= 0 and offset % ALIGNMENT == 0 and offset + b.size <= total for b, offset in placed)
    assert overlapping(given, offsets) == []
    assert total >= max(live_bytes(given), default=0)
    return total


@settings(deadline=None)
@given(st.lists(blocks(), max_size=40))
@example([])
@example([Block(1, 0, 0), Block(1, 1, 1), Block(1, 0, 1)])
@example([Block(1, 5, 5)] * 3)
def test_any_blocks(given: list[Block]) -> None:
    check(given)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1).map(random_blocks))
def test_little_is_wasted_on_random_blocks(given: list[Block]) -> None:
    assert check(given) <= WASTE * max(alive(given))


def test_hardly_anything_is_wasted_on_average() -> None:
    drawn = [random_blocks(seed) for seed in range(60)]
    assert np.mean([place(found)[1] / max(alive(found)) for found in drawn]) <= MEAN_WASTE


@pytest.mark.parametrize("depth", [1, 2, 10, 60])
def test_little_is_wasted_on_forward_and_backward(depth: int) -> None:
    assert check(nested(depth)) <= 1.1 * max(alive(nested(depth)))


def test_blocks_that_never_meet_share_one_place() -> None:
    assert place([Block(100, n, n) for n in range(5)]) == ([0] * 5, 2 * ALIGNMENT)


def test_a_block_lives_through_its_last_step() -> None:
    # The step that reads one block for the last time writes the other: they may not be one.
    _, total = place([Block(ALIGNMENT, 0, 1), Block(ALIGNMENT, 1, 2)])
    assert total == 2 * ALIGNMENT


@settings(deadline=None)
@given(st.lists(blocks(), max_size=20))
def test_what_lives_is_counted_in_aligned_bytes(given: list[Block]) -> None:
    whole = [Block(-(-b.size // ALIGNMENT) * ALIGNMENT, b.first, b.last) for b in given]
    assert alive(given) == live_bytes(whole)


@settings(deadline=None)
@given(st.lists(blocks(), max_size=40), st.lists(st.integers(1, 4).map(lambda n: n * PAGE), max_size=3))
def test_containers_hold_one_block_at_a_time(given: list[Block], sizes: list[int]) -> None:
    chosen, found = share(given, sizes)
    assert len(chosen) == len(given)
    assert found[: len(sizes)] == sizes
    for n, (block, container) in enumerate(zip(given, chosen, strict=True)):
        assert block.size <= found[container]
        for other in (b for b, c in zip(given[:n], chosen, strict=False) if c == container):
            assert other.last < block.first or block.last < other.first
    for container, size in enumerate(found[len(sizes) :], start=len(sizes)):
        assert size - PAGE < max(b.size for b, c in zip(given, chosen, strict=True) if c == container)


def test_containers_are_used_again() -> None:
    assert share([Block(5000, n, n) for n in range(5)], []) == ([0] * 5, [2 * PAGE])
    assert share([Block(5000, 0, 1), Block(100, 1, 2), Block(100, 2, 2)], [PAGE])[1] == [PAGE, 2 * PAGE]
