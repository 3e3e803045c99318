"""The mutator asks its engine for what the paper's algorithm needs, in the sparsities that it says, and no more."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mest_compiler.errors import CheckpointError, MaskError, ProfileError
from mest_compiler.sparsity.mutation import remove_to
from mest_compiler.sparsity.mutation_schedule import EM, EM_S, STATIC, VANILLA, units_at
from mest_compiler.training.mutator import Mutated, Mutator

from .notebook import LAYERS, Notebook, at, mest

settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")
methods = st.builds(
    mest, st.sampled_from([STATIC, VANILLA, EM, EM_S]), st.sampled_from([0.02, 0.05, 0.11]),
    st.integers(1, 3), st.integers(0, 8), st.lists(st.integers(0, 9), max_size=2).map(tuple),
    st.just(0.5), st.sampled_from([0, 0.01]),
)  # fmt: skip


@given(methods, st.integers(0, 2**32))
def test_a_whole_run_keeps_to_its_bounds(method, seed):
    schedule = method.schedule
    engine = Notebook()
    base = {name: len(units) for name, units in engine.units.items()}
    try:
        mutator = Mutator(method, engine, seed)
    except ProfileError as error:
        assert "is not smaller than" in str(error)
        return
    for epoch in range(10):
        before, asked = engine.kept_units(), len(engine.changes)
        found = mutator.after(at(epoch))
        due = schedule.phases(epoch)
        assert len(engine.changes) - asked == bool(due)
        if not due:
            assert found == Mutated(0, 0)
            continue
        changes = engine.changes[-1]
        removed = grown = 0
        for name, change in changes.items():
            scheme, shape = engine.sparse_layers()[name]
            offsets = {phase.grow: phase.offset for phase in due}
            survivors = before[name]
            if False in offsets:
                count = units_at(name, scheme, shape, base[name], offsets[False])
                survivors = remove_to(scheme, shape, before[name], engine.weight[name], count)
            np.testing.assert_array_equal(change.survivors, survivors)
            assert len(change.kept) == units_at(name, scheme, shape, base[name], list(offsets.values())[-1])
            removed += (len(before[name]) - len(survivors)) * scheme.unit_size(shape)
            grown += (len(change.kept) - len(survivors)) * scheme.unit_size(shape)
            if scheme.balanced:
                assert len(set(np.bincount(change.kept // scheme.grid(shape)[1], minlength=shape[0]))) == 1
        assert found == Mutated(removed, grown)
        if schedule.method in (VANILLA, EM):
            assert {name: len(units) for name, units in engine.units.items()} == base
    if schedule.method != EM_S or schedule.mutate_until < 10:
        assert {name: len(units) for name, units in engine.units.items()} == base
    assert set(engine.coefficients) <= {schedule.importance_lambda}


def test_the_order_of_the_kept_units_decides_nothing():
    """They may come as a file has them; draws follow the order of the layers."""
    ends = []
    for order in (list(LAYERS), sorted(LAYERS, reverse=True)):
        engine = Notebook()
        engine.units = {name: engine.units[name] for name in order}
        mutator = Mutator(mest(EM, 0.05, 1, 3), engine, 0)
        for epoch in range(4):
            mutator.after(at(epoch))
        ends.append({name: engine.units[name].tolist() for name in LAYERS})
    assert ends[0] == ends[1]


def test_growth_alone_needs_no_gradient():
    engine = Notebook()
    mutator = Mutator(mest(EM_S, 0.05, 2, 5), engine, 0)
    assert mutator.after(at(0)).grown > 0 and not engine.coefficients
    assert mutator.after(at(1)) == Mutated(0, 0)
    mutator.after(at(2))
    assert engine.coefficients == [0.01]


def test_what_is_kept_is_counted_in_weights():
    engine = Notebook()
    kept, whole = Mutator(mest(), engine, 0).kept()
    assert whole == 6 * 5 * 9 + 64 + 4 * 9 * 9 + 600 - 60 + 30
    # 54 weights; 2 blocks of 16; 4 kernels of 4 weights in each of 4 filters; 3 channels of 54; 3 filters of 3
    assert kept == 54 + 32 + 64 + 162 + 9


def test_without_sparse_layers_nothing_mutates():
    engine = Notebook({})
    mutator = Mutator(mest(EM_S, 0.05, 1, 5), engine, 0)
    assert [mutator.after(at(epoch)) for epoch in range(6)] == [Mutated(0, 0)] * 6
    assert not engine.changes and mutator.kept() == (0, 0)


def test_what_cannot_be_is_said_before_the_run():
    with pytest.raises(ProfileError, match=r"p = 0\.2 is not smaller than the fraction of 0\.2 that layer 'a' keeps"):
        Mutator(mest(EM, 0.2, 1, 3), Notebook(), 0)
    with pytest.raises(ProfileError, match=r"takes layer 'c' to a sparsity of .* below the 0\.5556"):
        Mutator(mest(EM_S, 0.3, 1, 3), Notebook(), 0)
    # never due
    Mutator(mest(EM, 0.2, 5, 5), Notebook(), 0)
    Mutator(mest(STATIC, 0.2, 1, 5), Notebook(), 0)
    engine = Notebook()
    engine.units["c"] = engine.units["c"][:-1]
    with pytest.raises(MaskError, match=r"Layer 'c' keeps 3 to 4 units in its 4 rows, but scheme 'pattern' mutates"):
        Mutator(mest(EM, 0.05, 1, 3), engine, 0)
    Mutator(mest(STATIC), engine, 0)


def test_masks_of_a_users_own_ratio_are_the_target():
    """A layer's own number of units counts, whatever a profile says: one keeps all, one nothing, one a single unit."""
    engine = Notebook()
    full = np.arange(10, dtype=np.int32)
    engine.units |= {"d": full, "a": np.array([5], np.int32)}
    with pytest.raises(ProfileError, match="that layer 'a' keeps"):
        Mutator(mest(EM, 0.05, 1, 3), engine, 0)
    engine.units["a"] = np.arange(100, dtype=np.int32)
    mutator = Mutator(mest(EM, 0.11, 1, 3), engine, 0)
    mutator.after(at(1))
    np.testing.assert_array_equal(engine.units["d"], full)
    assert len(engine.changes[0]["d"].survivors) == 9 and len(engine.units["a"]) == 100
    engine.units["d"] = np.zeros(0, np.int32)
    with pytest.raises(ProfileError, match="fraction of 0 that layer 'd' keeps"):
        Mutator(mest(EM, 0.05, 1, 3), engine, 0)
    soft = Mutator(mest(EM_S, 0.11, 1, 3), engine, 0)
    soft.after(at(0))
    assert len(engine.units["d"]) == 1
    for epoch in (1, 2, 3):
        soft.after(at(epoch))
    assert len(engine.units["d"]) == 0


# ---- its state
@settings(max_examples=40)
@given(st.sampled_from([EM, EM_S]), st.integers(0, 6), st.integers(0, 2**40))
def test_a_restored_mutator_goes_on(method, cut, seed):
    method = mest(method, 0.05, 1, 6)
    whole = Notebook()
    mutator = Mutator(method, whole, seed)
    resumed = Notebook()
    for epoch in range(cut):
        mutator.after(at(epoch))
    resumed.units, resumed.changes = whole.kept_units(), list(whole.changes)
    # made anew on other masks, as a command line would; the state comes back from JSON
    other = Mutator(method, Notebook(seed=1), seed + 1)
    other._engine = resumed
    other.restore(json.loads(json.dumps(mutator.state())), "here")
    assert other.state() == mutator.state()
    for epoch in range(cut, 7):
        assert mutator.after(at(epoch)) == other.after(at(epoch))
        for name, units in whole.units.items():
            np.testing.assert_array_equal(resumed.units[name], units)


def test_seeds_differ():
    found = []
    for seed in (0, 0, 1):
        engine = Notebook()
        Mutator(mest(EM_S, 0.05, 1, 6), engine, seed).after(at(0))
        found.append({name: units.tolist() for name, units in engine.units.items()})
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("base"), lambda state: state.pop("generator"), lambda state: state["base"].pop("a"),
        lambda state: state["base"].update(a=-1), lambda state: state["base"].update(a=10**9),
        lambda state: state["base"].update(a=1.5), lambda state: state["base"].update(z=1),
        lambda state: state.update(base=3), lambda state: state.update(generator=3),
        lambda state: state["generator"].update(state={}), lambda state: state["generator"].update(bit_generator="X"),
        lambda state: state["generator"]["state"].update(state=-1),
        lambda state: state["generator"]["state"].update(inc="x"),
    ],
)  # fmt: skip
def test_a_state_of_something_else_changes_nothing(change):
    mutator = Mutator(mest(EM_S, 0.05, 1, 6), Notebook(), 0)
    before = json.dumps(mutator.state())
    other = Mutator(mest(EM_S, 0.05, 1, 6), Notebook(), 1)
    other.after(at(0))
    state = json.loads(json.dumps(other.state()))
    change(state)
    with pytest.raises(CheckpointError, match=r"^here "):
        mutator.restore(state, "here")
    assert json.dumps(mutator.state()) == before
