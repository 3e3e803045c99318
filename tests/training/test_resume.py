"""A run with mutation and data efficiency, interrupted anywhere, goes on bit by bit; what it cannot go on from."""

import dataclasses
import json

import numpy as np
import pytest

from mest_compiler.errors import CheckpointError
from mest_compiler.losses import CrossEntropy
from mest_compiler.runtime.checkpoint import read
from mest_compiler.training.loop import train
from mest_compiler.training.progress import QuietReporter

from .interrupted import CtrlC, same_state, without_times


@pytest.fixture(params=["em", "em&s"])
def mutating(request, recipe):
    """Mutation, data efficiency and label smoothing in six epochs."""
    return dataclasses.replace(
        recipe, epochs=6, scheme="unstructured", sparsity=0.5, method=request.param, p=0.1, mutate_every=2,
        mutate_until=5, p_milestones=(4,), de_epoch=3, de_remove=30, label_smoothing=0.1,
    )  # fmt: skip


@pytest.mark.parametrize("each", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_mutating_run_equals_the_uninterrupted_one_wherever_it_is_cut(new_engine, data, mutating, tmp_path, each):
    def run(folder, resume, reporter, checkpoint_steps=None):
        engine = new_engine(dropout=0.2, seed=mutating.seed, loss=CrossEntropy(0.1))
        options = {"resume": resume, "reporter": reporter, "checkpoint_steps": checkpoint_steps}
        return engine, train(engine, data, mutating, tmp_path / folder, **options)

    engine, whole = run("whole", False, QuietReporter())
    assert [record.examples for record in whole.records] == [100] * 3 + [70] * 3
    assert sum(record.grown > 0 for record in whole.records) == 2
    assert whole.records[-1].kept == 144
    # epochs have 6 steps, later 4: cut at the end of each epoch, and in the middle of every one
    cuts = [(CtrlC(after_epoch=epoch), None) for epoch in range(1, 7)]
    cuts += [(CtrlC(after_steps=steps), 1) for steps in (1, 8, 15, 19, 24, 29)]
    first = ("em", "em&s").index(mutating.method) % each  # of two methods, each has every second cut
    for number, (reporter, checkpoint_steps) in enumerate(cuts[first::each]):
        with pytest.raises(KeyboardInterrupt):
            run(f"cut {number}", False, reporter, checkpoint_steps)
        again, summary = run(f"cut {number}", True, QuietReporter(), checkpoint_steps)
        same_state(again, engine)
        assert without_times(summary.records) == without_times(whole.records)
        stored = [read(tmp_path / name / "checkpoint.safetensors", None) for name in ("whole", f"cut {number}")]
        assert stored[0].extra["mutation"] == stored[1].extra["mutation"]
        assert stored[0].arrays.keys() == {"events", "learned", "right", "removed"}
        for name, array in stored[0].arrays.items():
            np.testing.assert_array_equal(stored[1].arrays[name], array)


def test_the_generator_is_in_the_checkpoint(new_engine, data, mutating, tmp_path):
    """Its state there is what decides: a run that goes on from another one grows other units."""
    ends = []
    for number, change in enumerate((0, 1)):
        with pytest.raises(KeyboardInterrupt):
            train(new_engine(), data, mutating, tmp_path / str(number), resume=False, reporter=CtrlC(after_epoch=3))
        path, engine = tmp_path / str(number) / "checkpoint.safetensors", new_engine()
        extra, arrays = engine.load(path)
        extra["mutation"]["generator"]["state"]["state"] += change
        engine.save(path, extra, arrays)
        engine = new_engine()
        train(engine, data, mutating, tmp_path / str(number), resume=True, reporter=QuietReporter())
        ends.append(engine.state()["3.weight"])
    assert not np.array_equal(*ends)


def test_a_run_goes_on_from_masks_other_than_its_engines(new_engine, data, mutating, tmp_path):
    """Which masks the engine was made with does not matter: those of the checkpoint count, and how many they were."""
    reporter = CtrlC(after_epoch=3)
    with pytest.raises(KeyboardInterrupt):
        train(new_engine(), data, mutating, tmp_path / "cut", resume=False, reporter=reporter)
    other = new_engine(mask=np.random.default_rng(5).random((8, 4, 3, 3)) < 0.7)
    train(other, data, mutating, tmp_path / "cut", resume=True, reporter=QuietReporter())
    engine = new_engine()
    train(engine, data, mutating, tmp_path / "whole", resume=False, reporter=QuietReporter())
    same_state(other, engine)


def damaged(extra, *path_and_value):
    """A copy of the JSON with another value somewhere."""
    extra = json.loads(json.dumps(extra))
    *path, last, value = path_and_value
    place = extra
    for key in path:
        place = place[key]
    place[last] = value
    return extra


WRONG_TEXT = [
    ("position", None), ("position", {}), ("position", "epoch", 7), ("position", "records", None),
    ("position", "records", [{}]), ("position", "step", -1), ("position", "epoch", "two"), ("recipe", None),
    ("recipe", {}), ("data", None), ("mutation", None), ("mutation", {}), ("mutation", "base", None),
    ("mutation", "base", {"3.weight": -1}), ("mutation", "base", {"3.weight": 10**6}),
    ("mutation", "base", {"3.weight": "144"}), ("mutation", "base", {"other": 144}),
    ("mutation", "generator", None), ("mutation", "generator", {}), ("mutation", "generator", "state", -1),
    ("mutation", "generator", "state", "state", -1), ("mutation", "generator", "state", "state", 2**200),
    ("mutation", "generator", "state", "inc", "one"), ("mutation", "generator", "bit_generator", "MT19937"),
]  # fmt: skip
WRONG_ARRAYS = [
    {"removed": None}, {"events": None}, {"right": None}, {"removed": np.zeros(2)}, {"learned": np.zeros(100)},
    {"removed": np.array([3, 3])}, {"removed": np.array([4, 3])}, {"removed": np.array([-1])},
    {"removed": np.array([100])}, {"removed": np.zeros((1, 1), np.int64)}, {"events": np.zeros(99, np.int32)},
]  # fmt: skip


def test_what_a_checkpoint_says_may_be_wrong(new_engine, data, mutating, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(new_engine(), data, mutating, tmp_path, resume=False, reporter=CtrlC(after_epoch=4))
    path, writer = tmp_path / "checkpoint.safetensors", new_engine()
    extra, arrays = writer.load(path)
    log = (tmp_path / "log.jsonl").read_text()
    for path_and_value in WRONG_TEXT:
        writer.save(path, damaged(extra, *path_and_value), arrays)
        with pytest.raises(CheckpointError):
            train(new_engine(), data, mutating, tmp_path, resume=True, reporter=QuietReporter())
            pytest.fail(f"taken: {path_and_value}")
    for change in WRONG_ARRAYS:
        left = {name: array for name, array in (arrays | change).items() if array is not None}
        writer.save(path, extra, left)
        with pytest.raises(CheckpointError, match="use another one"):
            train(new_engine(), data, mutating, tmp_path, resume=True, reporter=QuietReporter())
            pytest.fail(f"taken: {change}")
    assert (tmp_path / "log.jsonl").read_text() == log
    writer.save(path, extra, arrays)
    train(new_engine(), data, mutating, tmp_path, resume=True, reporter=QuietReporter())
