"""Division by a constant through a multiplication."""

import pytest

from mest_compiler.schedules.opencl.quotient import reciprocal


@pytest.mark.parametrize("by", [2, 3, 4, 5, 6, 7, 9, 12, 25, 64, 96, 121, 127])
@pytest.mark.parametrize("below", [1, 2, 130, 4099, 30000])
def test_every_number_below_the_bound(by: int, below: int) -> None:
    factor, shift = reciprocal(by, below)
    assert (below - 1) * factor < 1 << 31
    assert all(n * factor >> shift == n // by for n in range(below))


def test_numbers_that_32_bits_cannot_divide_so_are_left_to_a_division() -> None:
    assert reciprocal(7, 1 << 30) is None
