"""What the C allocator has handed out: large blocks, small ones, and those that were given back."""

import gc

import numpy as np
import pytest

from mest_compiler.runtime.allocated import bytes_in_use

MIB = 2**20
if bytes_in_use() is None:
    pytest.skip("this C library does not count", allow_module_level=True)


@pytest.mark.parametrize(("count", "each"), [(1, 64 * MIB), (1000, 16_000)])
def test_what_is_taken_and_given_back(count: int, each: int) -> None:
    gc.collect()
    before = bytes_in_use()
    arrays = [np.ones(each, np.uint8) for _ in range(count)]
    assert bytes_in_use() - before == pytest.approx(count * each, rel=0.01)
    del arrays
    gc.collect()
    assert bytes_in_use() - before < 0.01 * count * each


def test_pages_that_nobody_touched_count_too() -> None:
    before = bytes_in_use()
    array = np.empty(256 * MIB, np.uint8)
    assert bytes_in_use() - before >= array.nbytes
