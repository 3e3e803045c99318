"""A whole run with mutation, data efficiency and label smoothing is the same in PyTorch and compiled, goes on from any
checkpoint of either, and compiles nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mest_compiler.errors import CheckpointError, MaskError, ProfileError, StructureError
from mest_compiler.sparsity.mutation import Change
from mest_compiler.sparsity.mutation_schedule import units_at
from mest_compiler.training.recipe import Recipe

from ..runtime.no_compiler import forbid_compiling
from ..runtime.states import all_state, check_same_bits
from ..training.interrupted import CtrlC, without_times
from .mutating import (
    ENGINES,
    LINEAR,
    RECIPE,
    TrainingEngine,
    Watch,
    check_agree,
    compiled_engine,
    data,
    recipe_of,
    run,
    torch_engine,
)  # fmt: skip

SCHEMES = ("unstructured", "block", "block:1x4", "block:8x1", "block:4x4", "pattern", "channel", "filter")


def quick(params: list, fast: list) -> list:
    """All of them, those that are not fast marked slow."""
    slow = pytest.mark.slow
    return [p if p in fast else pytest.param(*([p] if isinstance(p, str) else p), marks=slow) for p in params]


RUNS = [
    ("vanilla", "unstructured"),
    ("set", "unstructured"),
    ("set", "pattern"),
    *((method, scheme) for scheme in SCHEMES for method in ("em", "em&s")),
]
METHODS = quick(RUNS, [("em", "unstructured"), ("set", "unstructured"), ("em&s", "pattern")])
ONE_MUTATION = quick(list(SCHEMES), ["unstructured", "pattern"])
MUTATED = {"vanilla": (2, 4, 6), "em": (2, 4, 6), "em&s": (0, 2, 4, 6, 7), "set": tuple(range(1, 9))}


@pytest.mark.parametrize(("method", "scheme"), METHODS)
def test_both_engines_walk_through_the_same_masks(
    method: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(method, scheme)
    headroom = recipe.updater.headroom
    engines = [make(scheme, headroom) for make in ENGINES.values()]
    base = {name: len(units) for name, units in engines[0].kept_units().items()}
    forbid_compiling(monkeypatch)
    watches, records = [], []
    for number, engine in enumerate(engines):
        watches.append(Watch(engine))
        records.append(run(engine, recipe, tmp_path / str(number)).records)
    ours, theirs = watches
    assert ours.mutations == theirs.mutations and len(ours.mutations) == len(MUTATED[method])
    check_agree(*engines)
    for one, other in zip(*records, strict=True):
        for fact in ("sparsity", "kept", "removed", "grown", "examples", "unforgettable", "test_score"):
            assert getattr(one, fact) == getattr(other, fact), fact
        assert one.loss == pytest.approx(other.loss, rel=1e-8)
    assert [record.examples for record in records[0]] == [100] * 5 + [70] * 4
    changed = [record.epoch for record in records[0] if record.removed or record.grown]
    assert changed == [epoch for epoch in MUTATED[method] if epoch]
    for name, (kind, shape) in engines[0].sparse_layers().items():
        most = units_at(name, kind, shape, base[name], -headroom)
        counts = [len(units[name]) for units in ours.mutations]
        assert ours.most[name] == most == engines[0].structures[name].spec.capacity
        assert counts[-1] == base[name]
        if method == "em&s":  # p = 0.13, half of that from epoch 4 on
            half = units_at(name, kind, shape, base[name], -0.065)
            assert counts == [most, most, half, half, base[name]] and most > base[name]
        else:
            assert counts == [base[name]] * len(MUTATED[method])
    assert all(a != b for a, b in pairwise(ours.mutations)) and ours.regrown == theirs.regrown


def test_some_units_come_back_at_once(tmp_path: Path) -> None:
    """The runs above hold the case that is easily wrong: removed, and drawn again in the same mutation."""
    engine = torch_engine("unstructured")
    watch = Watch(engine)
    run(engine, recipe_of("em", "unstructured"), tmp_path)
    assert watch.regrown > 10


# ---- one mutation
@pytest.mark.parametrize("scheme", ONE_MUTATION)
def test_a_unit_that_is_removed_and_grown_at_once_starts_at_zero(scheme: str) -> None:
    recipe = recipe_of("em&s", scheme)
    engines = [make(scheme, recipe.updater.headroom) for make in ENGINES.values()]
    x, y = data().train_x, data().train_y
    for step in range(2):
        part = slice(16 * step, 16 * step + 16)
        for engine in engines:
            engine.step(x[part], y[part], 0.1)
    changes = {name: Change(units[::2], units) for name, units in engines[0].kept_units().items()}
    for engine in engines:
        Watch(engine).mutate(changes)
        engine.step(x[32:48], y[32:48], 0.1)
    check_agree(*engines)


@pytest.mark.parametrize("scheme", ONE_MUTATION)
def test_importance_is_the_same(scheme: str) -> None:
    engines = [make(scheme, RECIPE.p) for make in ENGINES.values()]
    for step in range(2):
        part = slice(16 * step, 16 * step + 16)
        for engine in engines:
            engine.step(data().train_x[part], data().train_y[part], 0.1)
    compiled, reference = engines
    found, wanted = compiled.importance(0.7), reference.importance(0.7)
    assert found.keys() == wanted.keys() == compiled.kept_units().keys() and LINEAR in found
    for name, array in wanted.items():
        assert found[name].shape == compiled.kept_units()[name].shape
        np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-12)
    compiled.predict(data().test_x)  # overwrites no gradient
    for name, array in compiled.importance(0.7).items():
        np.testing.assert_array_equal(array, found[name])


def test_a_refused_mutation_changes_nothing() -> None:
    trainer = compiled_engine("unstructured", 0.0)
    trainer.step(data().train_x[:16], data().train_y[:16], 0.1)
    before, importance = all_state(trainer), trainer.importance(0.1)
    units = trainer.kept_units()
    good = {"3.weight": Change(units["3.weight"][1:], units["3.weight"][1:])}
    kept = units["6.weight"]
    for change, error in (
        ({"nobody": Change(kept, kept)}, MaskError),
        ({"6.weight": Change(kept, np.arange(len(kept) + 1, dtype=np.int32))}, StructureError),
        ({"6.weight": Change(kept, kept[::-1].copy())}, StructureError),
        ({"6.weight": Change(kept, np.array([10**6], np.int32))}, StructureError),
    ):
        with pytest.raises(error):
            trainer.mutate(good | change)
    check_same_bits(all_state(trainer), before)
    check_same_bits(trainer.importance(0.1), importance)


def test_a_schedule_that_a_layer_cannot_follow_fails_before_the_first_step(tmp_path: Path) -> None:
    recipe = replace(recipe_of("em", "unstructured"), p=0.25)  # all that the convolutions keep
    for make in ENGINES.values():
        with pytest.raises(ProfileError, match=r"p = 0\.25 is not smaller than the fraction of 0\.25 that layer '3\.w"):
            run(make("unstructured", 0.0), recipe, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_pattern_mask_with_uneven_filters_trains_but_does_not_mutate(tmp_path: Path) -> None:
    engine = torch_engine("pattern")
    units = engine.kept_units()["3.weight"][1:]
    engine.mutate({"3.weight": Change(units, units)})
    with pytest.raises(MaskError, match=r"Layer '3\.weight' keeps 3 to 4 units in its 16 rows"):
        run(engine, recipe_of("em", "pattern"), tmp_path / "em")
    run(engine, replace(recipe_of("static", "pattern"), epochs=1, mutate_until=0, de_epoch=None, de_remove=None),
        tmp_path / "static")  # fmt: skip


# ---- checkpoints
def cut_run(engine: TrainingEngine, recipe: Recipe, folder: Path, cut: tuple[str, int]) -> None:
    """Begins a run and interrupts it after so many epochs, or steps with a checkpoint after each."""
    reporter = CtrlC(**{cut[0]: cut[1]})
    with pytest.raises(KeyboardInterrupt):
        run(engine, recipe, folder, False, reporter, 1 if cut[0] == "after_steps" else None)


# After every epoch and in the middle of some; epochs have 6 steps, the last four of them 4.
CUTS = [("after_epoch", epoch) for epoch in range(1, 10)] + [("after_steps", n) for n in (1, 11, 15, 25, 31, 38, 43)]
BIT_EQUAL = [("compiled", "unstructured"), ("compiled", "pattern"), ("torch", "pattern")]
SOME_CUTS = [("after_epoch", 3), ("after_epoch", 6), ("after_steps", 31)]
EVERY = [pytest.param(SOME_CUTS, id="some cuts"), pytest.param(CUTS, id="all cuts", marks=pytest.mark.slow)]


@pytest.mark.parametrize("cuts", EVERY)
@pytest.mark.parametrize(
    ("first", "method"),
    quick([(first, method) for first in ENGINES for method in ("em", "em&s")], [("torch", "em&s"), ("compiled", "em")]),
)
def test_either_engine_goes_on_with_what_the_other_began(first: str, method: str, cuts: list, tmp_path: Path) -> None:
    recipe = recipe_of(method, "unstructured")
    headroom = recipe.updater.headroom
    begin = ENGINES[first]
    end = next(make for name, make in ENGINES.items() if name != first)
    whole = begin("unstructured", headroom)
    expected = run(whole, recipe, tmp_path / "whole")
    for number, cut in enumerate(cuts):
        cut_run(begin("unstructured", headroom), recipe, tmp_path / str(number), cut)
        other = end("unstructured", headroom)
        summary = run(other, recipe, tmp_path / str(number), True)
        check_agree(other, whole)
        for one, record in zip(summary.records, expected.records, strict=True):
            assert (one.kept, one.removed, one.grown) == (record.kept, record.removed, record.grown)


@pytest.mark.parametrize("cuts", EVERY)
@pytest.mark.parametrize(
    ("kind", "scheme", "method"),
    quick(
        [(*run, method) for run in BIT_EQUAL for method in ("em", "em&s", "set")],
        [("compiled", "unstructured", "em&s"), ("torch", "pattern", "set")],
    ),
)
def test_a_resumed_run_has_the_same_bits(kind: str, scheme: str, method: str, cuts: list, tmp_path: Path) -> None:
    recipe = recipe_of(method, scheme)

    def engine() -> TrainingEngine:
        return ENGINES[kind](scheme, recipe.updater.headroom, dropout=0.2)

    whole = engine()
    expected = run(whole, recipe, tmp_path / "whole")
    for number, cut in enumerate(cuts):
        cut_run(engine(), recipe, tmp_path / str(number), cut)
        again = engine()
        summary = run(again, recipe, tmp_path / str(number), True)
        check_same_bits(all_state(again), all_state(whole))
        assert without_times(summary.records) == without_times(expected.records)


def test_a_checkpoint_beyond_the_room_of_an_artifact(tmp_path: Path) -> None:
    """What EM&S grew in PyTorch does not fit an artifact that was compiled for s."""
    recipe = recipe_of("em&s", "unstructured")
    with pytest.raises(KeyboardInterrupt):
        run(torch_engine("unstructured"), recipe, tmp_path, reporter=CtrlC(after_epoch=2))
    trainer = compiled_engine("unstructured", 0.0)
    trainer.step(data().train_x[:16], data().train_y[:16], 0.1)
    before = all_state(trainer)
    with pytest.raises(CheckpointError, match="more than the capacity"):
        trainer.load(tmp_path / "checkpoint.safetensors")
    check_same_bits(all_state(trainer), before)
    assert trainer.steps == 1
    compiled_engine("unstructured", RECIPE.p).load(tmp_path / "checkpoint.safetensors")


# ---- the loss
@pytest.mark.parametrize("scheme", ["unstructured", "pattern"])
def test_smoothed_labels_are_torchs_own(scheme: str) -> None:
    trainer, reference = compiled_engine(scheme, RECIPE.p), torch_engine(scheme)
    for step in range(4):
        part = slice(16 * step, 16 * step + 16)
        x, y = data().train_x[part], data().train_y[part]
        (loss, logits), (wanted, wanted_logits) = trainer.step(x, y, 0.1), reference.step(x, y, 0.1)
        assert loss == pytest.approx(wanted, rel=1e-12)
        np.testing.assert_allclose(logits, wanted_logits, rtol=1e-10, atol=1e-12)
    check_agree(trainer, reference)
