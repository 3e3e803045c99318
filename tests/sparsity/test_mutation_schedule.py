"""When a network mutates, and to how many units: against tables written by hand from the paper; its memory bounds."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mest_compiler.errors import ProfileError
from mest_compiler.sparsity.mutation import grow_to, remove_to
from mest_compiler.sparsity.mutation_schedule import EM, EM_S, STATIC, VANILLA, MutationSchedule, Phase, units_at
from mest_compiler.sparsity.schemes import get_scheme

from .strategies import layers

REMOVE, GROW = False, True
# Table G.1, ResNet-32 and VGG-19: every 5 epochs, p = 0.05 to epoch 100, 0.025 to 130, then none.
CIFAR = {"p": 0.05, "mutate_every": 5, "mutate_until": 130, "p_milestones": (100,)}
IMAGENET = {"p": 0.05, "mutate_every": 2, "mutate_until": 120, "p_milestones": (90,)}


def whole_run(schedule: MutationSchedule, epochs: int) -> dict[int, list[tuple[bool, float]]]:
    """(grow, offset) of all phases by the number of epochs done, where there are any."""
    found = {epoch: [(p.grow, p.offset) for p in schedule.phases(epoch)] for epoch in range(epochs + 1)}
    return {epoch: phases for epoch, phases in found.items() if phases}


@pytest.mark.parametrize(("table", "epochs", "half"), [(CIFAR, 160, 100), (IMAGENET, 150, 90)])
def test_table_g1(table: dict, epochs: int, half: int) -> None:
    every, until = table["mutate_every"], table["mutate_until"]
    em, vanilla, em_s = {}, {}, {0: [(GROW, -0.05)]}
    for epoch in range(every, until, every):
        p = 0.05 if epoch < half else 0.025
        em[epoch] = [(REMOVE, p), (GROW, 0.0)]
        vanilla[epoch] = [(REMOVE, 0.05), (GROW, 0.0)]
        em_s[epoch] = [(REMOVE, 0.0), (GROW, -p)]
    em_s[until] = [(REMOVE, 0.0)]
    assert whole_run(MutationSchedule(EM, **table), epochs) == em
    assert whole_run(MutationSchedule(VANILLA, **table), epochs) == vanilla
    assert whole_run(MutationSchedule(EM_S, **table), epochs) == em_s
    assert whole_run(MutationSchedule(STATIC, **table), epochs) == {}


@pytest.mark.parametrize(
    ("options", "em", "em_s"),
    [
        # `mutate_until` is no multiple of `mutate_every`; a milestone at a mutation's epoch holds from that mutation on
        (
            {"p": 0.2, "mutate_every": 2, "mutate_until": 7, "p_milestones": (4,)},
            {2: [(REMOVE, 0.2), (GROW, 0.0)], 4: [(REMOVE, 0.1), (GROW, 0.0)], 6: [(REMOVE, 0.1), (GROW, 0.0)]},
            {
                0: [(GROW, -0.2)], 2: [(REMOVE, 0.0), (GROW, -0.2)], 4: [(REMOVE, 0.0), (GROW, -0.1)],
                6: [(REMOVE, 0.0), (GROW, -0.1)], 7: [(REMOVE, 0.0)],
            },
        ),
        # to the last epoch; milestones between mutations, two of them
        (
            {"p": 0.2, "mutate_every": 3, "mutate_until": 9, "p_milestones": (2, 5)},
            {3: [(REMOVE, 0.1), (GROW, 0.0)], 6: [(REMOVE, 0.05), (GROW, 0.0)]},
            {
                0: [(GROW, -0.2)], 3: [(REMOVE, 0.0), (GROW, -0.1)], 6: [(REMOVE, 0.0), (GROW, -0.05)],
                9: [(REMOVE, 0.0)],
            },
        ),
        # rarer than it lasts: EM never mutates
        ({"p": 0.2, "mutate_every": 5, "mutate_until": 2}, {}, {0: [(GROW, -0.2)], 2: [(REMOVE, 0.0)]}),
        # a milestone at the start, another decay
        (
            {"p": 0.2, "mutate_every": 1, "mutate_until": 2, "p_milestones": (0,), "p_decay": 0.25},
            {1: [(REMOVE, 0.05), (GROW, 0.0)]},
            {0: [(GROW, -0.05)], 1: [(REMOVE, 0.0), (GROW, -0.05)], 2: [(REMOVE, 0.0)]},
        ),
        ({"p": 0.2, "mutate_every": 1, "mutate_until": 0}, {}, {}),
    ],
)  # fmt: skip
def test_short_runs(options: dict, em: dict, em_s: dict) -> None:
    assert whole_run(MutationSchedule(EM, **options), 9) == em
    assert whole_run(MutationSchedule(EM_S, **options), 9) == em_s


def test_headroom_is_that_of_the_soft_bound() -> None:
    found = [MutationSchedule(method, 0.2, mutate_until=3).headroom for method in (STATIC, VANILLA, EM, EM_S)]
    assert found == [0, 0, 0, 0.2]
    assert MutationSchedule(EM_S, 0.2, mutate_until=0).headroom == 0


schedules = st.builds(
    MutationSchedule, st.sampled_from([VANILLA, EM, EM_S]), st.sampled_from([0.02, 0.05, 0.1, 0.2]),
    st.integers(1, 4), st.integers(1, 9), st.lists(st.integers(0, 9), max_size=2).map(tuple),
    st.sampled_from([0.25, 0.5, 1.0]),
)  # fmt: skip


@given(schedules, layers(), st.floats(0, 0.99), st.integers(0, 2**32))
def test_the_bounds_hold_in_every_epoch(schedule, layer, sparsity: float, seed: int) -> None:
    scheme, shape = layer
    rng = np.random.default_rng(seed)
    base = scheme.kept_units(shape, max(sparsity, scheme.lowest))
    try:
        counts = {
            (e, p): units_at("conv", scheme, shape, base, p.offset) for e in range(10) for p in schedule.phases(e)
        }
        most = units_at("conv", scheme, shape, base, -schedule.headroom)
    except ProfileError:
        assume(False)
    units = grow_to(scheme, shape, np.zeros(0, np.int32), base, rng)
    for epoch in range(10):
        for phase in schedule.phases(epoch):
            if phase.grow:
                units = grow_to(scheme, shape, units, counts[epoch, phase], rng)
            else:
                units = remove_to(scheme, shape, units, rng.random(len(units)), counts[epoch, phase])
            assert len(units) == counts[epoch, phase] <= most
        # what is trained on in the epochs that follow
        if schedule.method != EM_S or epoch >= schedule.mutate_until:
            assert len(units) == base
        else:
            assert base <= len(units) <= most


# ---- units
@given(layers(), st.floats(0, 0.99), st.floats(-0.3, 0.3))
def test_units_are_exact_to_one(layer, sparsity: float, offset: float) -> None:
    scheme, shape = layer
    base = scheme.kept_units(shape, max(sparsity, scheme.lowest))
    assume(base)
    try:
        found = units_at("conv", scheme, shape, base, offset)
    except ProfileError:
        assume(False)
    # where rows are balanced, to one unit a row
    step = scheme.grid(shape)[0] if scheme.balanced else 1
    weights = base * scheme.unit_size(shape) - offset * prod(shape)
    # half a unit by rounding, and less than one where rounding would have emptied the layer
    off = (1 if found == step else 0.5) + 1e-6
    assert abs(found * scheme.unit_size(shape) - weights) <= off * step * scheme.unit_size(shape)
    assert found % step == 0 and 0 < found <= scheme.most_kept(shape)
    assert found <= base if offset >= 0 else found >= base


def test_units_of_layers_that_one_can_count() -> None:
    unstructured, pattern, channel = map(get_scheme, ("unstructured", "pattern", "channel"))
    assert units_at("c", unstructured, (10, 10, 1, 1), 25, 0.1) == 15
    assert units_at("c", unstructured, (10, 10, 1, 1), 25, -0.1) == 35
    assert units_at("c", unstructured, (10, 10, 1, 1), 25, 0.0) == 25
    # 6 filters keep 9 of 36 kernels, a quarter of that in weights is 1/9: one tenth of all weights is 8.1 kernels
    assert units_at("c", pattern, (6, 36, 3, 3), 6 * 9, 0.05) == 6 * 5
    assert units_at("c", pattern, (6, 36, 3, 3), 6 * 9, -0.1) == 6 * 17
    assert units_at("c", channel, (4, 8, 3, 3), 4, 0.25) == 2
    # too little to move a channel: the layer stays as it is
    assert units_at("c", channel, (4, 8, 3, 3), 4, 0.05) == 4
    # nor is the last one taken while p is less than what is kept: here 1/8, and 1/9 in 6 kernels
    assert units_at("c", channel, (4, 8, 3, 3), 1, 0.1) == 1
    assert units_at("c", pattern, (6, 4, 3, 3), 6, 0.1) == 6


def test_all_and_nothing() -> None:
    unstructured, pattern = get_scheme("unstructured"), get_scheme("pattern")
    assert units_at("c", unstructured, (10, 10, 1, 1), 95, -0.05) == 100
    assert units_at("c", pattern, (3, 8, 3, 3), 3 * 6, -1 / 9) == 3 * 8  # 5/9 to the last digit
    assert units_at("c", unstructured, (10, 10, 1, 1), 100, 0.0) == 100
    assert units_at("c", unstructured, (10, 10, 1, 1), 0, 0.0) == 0
    assert units_at("c", unstructured, (10, 10, 1, 1), 0, -0.1) == 10


@pytest.mark.parametrize(
    ("name", "shape", "base", "offset", "sentence"),
    [
        (
            "unstructured", (10, 10, 1, 1), 5, 0.05,
            r"p = 0\.05 is not smaller than the fraction of 0\.05 that layer 'conv' keeps: lower p .* of 0\.95",
        ),
        ("unstructured", (10, 10, 1, 1), 0, 0.01, r"p = 0\.01 is not smaller than the fraction of 0 that layer 'conv'"),
        ("unstructured", (10, 10, 1, 1), 96, -0.05, r"takes layer 'conv' to a sparsity of -0\.01, below the 0"),
        ("pattern", (3, 8, 3, 3), 18, -0.2, r"to a sparsity of 0\.4667, below the 0\.5556 that .* 'pattern'"),
    ],
)  # fmt: skip
def test_what_a_layer_cannot_do(name: str, shape: tuple, base: int, offset: float, sentence: str) -> None:
    with pytest.raises(ProfileError, match=sentence):
        units_at("conv", get_scheme(name), shape, base, offset)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "EM"), ("p", 0), ("p", 1.0), ("p", float("nan")), ("mutate_every", 0), ("mutate_until", -1),
        ("p_decay", 0), ("p_decay", 1.5), ("importance_lambda", -0.1),
    ],
)  # fmt: skip
def test_values_out_of_range(field: str, value: object) -> None:
    with pytest.raises(ProfileError, match=f"^{field} of a mutation is "):
        MutationSchedule(**{field: value})


def test_a_phase_is_its_values() -> None:
    assert MutationSchedule(EM, 0.1, 2, 5).phases(2) == (Phase(REMOVE, 0.1), Phase(GROW, 0.0))
    assert MutationSchedule(EM, 0.1, 2, 5).fraction(4) == 0.1
