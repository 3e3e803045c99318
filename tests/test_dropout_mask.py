"""The masks of dropouts: the share they keep, their independence, and that they stay what they are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mest_compiler.dropout_mask import ARRAYS, dropout_bits, dropout_keys, keep, threshold

ELEMENTS = 1 << 20
GOLDEN = [3607884651, 2633069844, 3465286371, 1982122539]  # of elements 0 to 3 of layer 3 in the step with seed 12345


def within(share: float, expected: float, count: int) -> bool:
    """Whether a share of `count` draws lies within five standard deviations of the expected one."""
    return abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_the_kept_share_is_right(p: float, seed: int) -> None:
    mask = keep((ELEMENTS,), seed, 0, p)
    assert within(mask.mean(), 1 - p, ELEMENTS)
    for width in (2, 7, 64, 1024):  # no column of any layout is treated in a special way
        rows = ELEMENTS // width
        shares = mask[: rows * width].reshape(rows, width).mean(0)
        assert np.abs(shares - (1 - p)).max() <= 6 * np.sqrt(p * (1 - p) / rows)


def test_masks_of_steps_and_layers_are_independent() -> None:
    p = 0.3
    masks = {(seed, layer): keep((ELEMENTS,), seed, layer, p) for seed in (0, 1, 77, 2**31) for layer in (0, 1, 5)}
    for a, b in combinations(masks, 2):
        assert within((masks[a] == masks[b]).mean(), p * p + (1 - p) ** 2, ELEMENTS), (a, b)
    mask = masks[0, 0]
    for shift in (1, 2, 3, 32, 1000):
        assert within((mask[shift:] == mask[:-shift]).mean(), p * p + (1 - p) ** 2, ELEMENTS), shift


def test_elements_are_numbered_row_by_row() -> None:
    np.testing.assert_array_equal(keep((6, 35), 3, 2, 0.5), keep((2, 3, 5, 7), 3, 2, 0.5).reshape(6, 35))


def test_nothing_but_everything_can_be_dropped() -> None:
    assert keep((1000,), 0, 0, 0.0).all()
    assert threshold(0.0) == 0 and threshold(0.5) == 2**31 and threshold(1.0) == 2**32 - 1


def test_the_bits_stay_what_they_are() -> None:
    """A run that is continued by a later version drops the same elements."""
    keys = dropout_keys(np.array([12345], np.uint32), 3, ARRAYS)
    found = dropout_bits(np.arange(4, dtype=np.uint32), keys, ARRAYS)
    assert [int(bits) for bits in found] == GOLDEN
