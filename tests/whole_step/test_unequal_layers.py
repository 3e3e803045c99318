"""Layers of equal shape under unequal schemes and ratios: no kernel of one is taken for another's, whichever come first
and whichever kernels compute them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings

from mest_compiler.optimizers import Sgd

from .unequal_layers import Network, check_on_cpu, check_on_opencl, networks

RULE = Sgd(0.9, 5e-4, False)
DRAWS = settings(
    max_examples=2, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
PARTS, OF = 25, 20
"""500 draws in parts, each of a seed of its own that a failure names."""


def _in_a_row(scheme: str, ratios: tuple[float, ...], turn: int) -> Network:
    """Convolutions under one scheme, the order of whose ratios decides which layer's kernels are made first."""
    plans = tuple((scheme, ratio) for ratio in ratios)
    return Network(3, (5, 4), plans, (), None, False, True, RULE, 0.0, turn, False)


# What was wrong once: kernels that the layer with the least room was the first to have made.
@pytest.mark.parametrize(
    ("scheme", "ratios", "turn"),
    [
        pytest.param("unstructured", (0.3, 0.6, 0.5), 1, marks=pytest.mark.slow),
        pytest.param("unstructured", (0.6, 0.3, 0.5), 1, marks=pytest.mark.slow),
        pytest.param("channel", (0.3, 0.5, 0.75), 1, marks=pytest.mark.slow),
    ],
)
def test_either_order_on_opencl(scheme: str, ratios: tuple[float, ...], turn: int) -> None:
    check_on_opencl(_in_a_row(scheme, ratios, turn))


@DRAWS
@seed(1)
@given(networks())
def test_three_steps_on_the_cpu(network: Network) -> None:
    check_on_cpu(network)


@settings(DRAWS, phases=[Phase.explicit])  # the drawn ones are slow there
@given(networks())
# `_in_a_row` of 0.3 and 0.6 among others
@example(Network(3, (4, 4), (("unstructured", 0.3), ("unstructured", 0.6), ("pattern", 0.7)),
                 (("block", 0.5), ("block", 0.75)), ("filter", 0.7), True, True, RULE, 0.1, 1, False))  # fmt: skip
def test_three_steps_on_opencl(network: Network) -> None:
    check_on_opencl(network)


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_on_cpu, check_on_opencl])
@pytest.mark.parametrize("part", range(PARTS))
def test_many_draws(part: int, check) -> None:
    @settings(DRAWS, max_examples=OF)
    @seed(1000 + part)
    @given(networks())
    def drawn(network: Network) -> None:
        check(network)

    drawn()
