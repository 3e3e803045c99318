"""Where a speed-up curve crosses 1, on numbers made by hand."""

import pytest

from mest_compiler.bench.break_even import break_even


def test_between_two_points() -> None:
    found = break_even([(0.5, 0.8), (0.7, 1.2), (0.9, 3.0)])
    assert found.sparsity == pytest.approx(0.6)
    assert not found.always
    assert str(found) == "60.0%"


def test_not_halfway() -> None:
    assert break_even([(0.2, 0.5), (0.4, 2.5)]).sparsity == pytest.approx(0.25)


def test_order_does_not_matter() -> None:
    assert break_even([(0.9, 3.0), (0.5, 0.8), (0.7, 1.2)]) == break_even([(0.5, 0.8), (0.7, 1.2), (0.9, 3.0)])


@pytest.mark.parametrize("points", [[(0.5, 0.2), (0.98, 0.99)], [(0.9, 0.5)], [(0.5, 1.2), (0.9, 0.9)]])
def test_never(points: list[tuple[float, float]]) -> None:
    found = break_even(points)
    assert found.sparsity is None
    assert str(found) == f"not up to {points[-1][0]:.1%}"


@pytest.mark.parametrize("points", [[(0.1, 1.1), (0.5, 2.0)], [(0.1, 1.0)]])
def test_always(points: list[tuple[float, float]]) -> None:
    found = break_even(points)
    assert (found.sparsity, found.always) == (0.1, True)
    assert str(found) == "10.0% or less"


def test_exactly_at_a_point() -> None:
    assert break_even([(0.5, 0.5), (0.6, 1.0), (0.7, 2.0)]).sparsity == pytest.approx(0.6)


def test_the_last_of_several_crossings_counts() -> None:
    found = break_even([(0.1, 0.9), (0.2, 1.1), (0.3, 0.9), (0.5, 1.1)])
    assert found.sparsity == pytest.approx(0.4)
