"""The loop with the PyTorch engine: it learns, leaves its files, and goes on bit by bit after any
interruption."""

import dataclasses
import io
import json
import os
import signal

import numpy as np
import pytest
import safetensors.numpy
from rich.console import Console

from mest_compiler.errors import CheckpointError, DataError, MestError
from mest_compiler.training.loop import evaluate, train
from mest_compiler.training.progress import QuietReporter, RichReporter

from .interrupted import TIMES, CtrlC, same_state, without_times

FACTS = {
    "epoch", "loss", "train_accuracy", "test_accuracy", "lr", "sparsity", "kept", "removed", "grown", "examples",
    "unforgettable", "state_mb",
}  # fmt: skip


def log_lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def whole(new_engine, data, recipe, tmp_path):
    """(engine, folder, summary) of an uninterrupted run."""
    engine, folder = new_engine(), tmp_path / "whole"
    summary = train(engine, data, recipe, folder, resume=False, reporter=QuietReporter())
    return engine, folder, summary


def test_the_loss_goes_down_and_the_network_learns(whole, data):
    engine, _, summary = whole
    losses = [record.loss for record in summary.records]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.75 * losses[0]
    assert summary.test_score > 0.8
    assert summary.test_score == evaluate(engine, data)
    assert summary.epochs == 3


def test_the_log_has_a_line_an_epoch(whole, recipe):
    _, folder, summary = whole
    lines = log_lines(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines == [record.as_mapping() for record in summary.records]
    assert set(lines[0]) == FACTS | TIMES
    assert [(line["kept"], line["sparsity"], line["removed"], line["grown"]) for line in lines] == [
        (144, 0.5, 0, 0)
    ] * 3
    assert [line["examples"] for line in lines] == [100] * 3
    assert lines[0]["lr"] == recipe.learning_rate(5, 6)
    assert lines[2]["lr"] == 0.0
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint.safetensors", "log.jsonl", "recipe.yaml"]


@pytest.mark.parametrize(
    ("reporter", "checkpoint_steps", "said"),
    [
        (CtrlC(after_steps=1), None, "holds 0 of 3 epochs; resume"),
        (CtrlC(after_steps=9), None, "holds 1 of 3 epochs; resume"),
        (CtrlC(after_steps=11), 2, "holds 1 of 3 epochs and 4 steps; resume"),
        (CtrlC(after_epoch=2), None, "holds 2 of 3 epochs; resume"),
        (CtrlC(after_epoch=3), None, "holds 3 of 3 epochs; resume"),
    ],
)
def test_an_interrupted_and_resumed_run_equals_the_uninterrupted_one(
    whole, new_engine, data, recipe, tmp_path, reporter, checkpoint_steps, said
):
    options = {"checkpoint_steps": checkpoint_steps}
    with pytest.raises(KeyboardInterrupt, match=said):
        train(new_engine(), data, recipe, tmp_path / "cut", resume=False, reporter=reporter, **options)
    assert said in reporter.notes[0]

    engine = new_engine()
    summary = train(engine, data, recipe, tmp_path / "cut", resume=True, reporter=QuietReporter(), **options)
    expected_engine, expected_folder, expected = whole
    same_state(engine, expected_engine)
    assert without_times(log_lines(tmp_path / "cut")) == without_times(log_lines(expected_folder))
    assert without_times(summary.records) == without_times(expected.records)


def test_an_interrupted_write_keeps_the_checkpoint_before_it(whole, new_engine, data, recipe, tmp_path, monkeypatch):
    saves, whole_bytes, fsync = [], safetensors.numpy.save, os.fsync

    def half_of_the_third(arrays, metadata):
        saves.append(whole_bytes(arrays, metadata))
        return saves[-1][: len(saves[-1]) // 2] if len(saves) == 3 else saves[-1]

    def interrupted(handle):
        fsync(handle)
        if len(saves) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(safetensors.numpy, "save", half_of_the_third)
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt, match="holds 1 of 3 epochs"):
        train(new_engine(), data, recipe, tmp_path / "cut", resume=False, reporter=QuietReporter())
    monkeypatch.undo()
    assert len(list((tmp_path / "cut").iterdir())) == 3
    assert (tmp_path / "cut" / "checkpoint.safetensors").read_bytes() == saves[1]
    engine = new_engine()
    train(engine, data, recipe, tmp_path / "cut", resume=True, reporter=QuietReporter())
    same_state(engine, whole[0])


def test_a_log_line_beyond_the_checkpoint_is_taken_back(whole, new_engine, data, recipe):
    _, folder, summary = whole
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"epoch": 4')
    again = train(new_engine(), data, recipe, folder, resume=True, reporter=QuietReporter())
    assert again == summary
    assert len(log_lines(folder)) == 3


def test_a_second_run_does_not_write_over_the_first(whole, new_engine, data, recipe):
    with pytest.raises(CheckpointError, match="already holds a run: resume it or choose another folder"):
        train(new_engine(), data, recipe, whole[1], resume=False, reporter=QuietReporter())


def test_there_must_be_something_to_resume(new_engine, data, recipe, tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume"):
        train(new_engine(), data, recipe, tmp_path, resume=True, reporter=QuietReporter())


def test_a_run_goes_on_with_its_own_recipe_and_data_only(whole, new_engine, data, recipe):
    def resume(data, recipe):
        train(new_engine(), data, recipe, whole[1], resume=True, reporter=QuietReporter())

    with pytest.raises(CheckpointError, match=r"made with lr 0\.1 and the recipe now says 0\.2"):
        resume(data, dataclasses.replace(recipe, lr=0.2))
    with pytest.raises(CheckpointError, match=r"made with other data \(inputs or targets\)"):
        resume(dataclasses.replace(data, train_y=(data.train_y + 1) % 3), recipe)
    with pytest.raises(DataError, match="asks for data set mnist and was given rows"):
        resume(data, dataclasses.replace(recipe, data="mnist"))
    resume(data, dataclasses.replace(recipe, data_root="/elsewhere"))


def test_a_checkpoint_of_something_else_is_refused(new_engine, data, recipe, tmp_path):
    new_engine().save(tmp_path / "checkpoint.safetensors", {"epoch": 3})
    with pytest.raises(CheckpointError, match="was not written by this training loop"):
        train(new_engine(), data, recipe, tmp_path, resume=True, reporter=QuietReporter())


def test_a_diverging_run_stops_with_a_sentence(new_engine, data, recipe, tmp_path):
    data.train_x[5] = np.inf
    with pytest.raises(MestError, match=r"the loss became nan in epoch 1, step \d of 6, at learning rate 0\.\d+"):
        train(new_engine(), data, recipe, tmp_path, resume=False, reporter=QuietReporter())


def test_the_rich_reporter_shows_a_row_an_epoch(new_engine, data, recipe, tmp_path):
    for terminal in (False, True):
        screen = io.StringIO()
        reporter = RichReporter(Console(file=screen, force_terminal=terminal, width=100))
        train(new_engine(), data, recipe, tmp_path / str(terminal), resume=False, reporter=reporter)
        reporter.note("a sentence")
        shown = screen.getvalue()
        assert all(shown.count(f" {epoch}/3 0.") + shown.count(f" {epoch}/3 1.") == 1 for epoch in (1, 2, 3))
        assert shown.endswith("a sentence\n")
        # The bar is drawn on a terminal only; a file has the headings, three rows and the sentence.
        assert ("━" in shown) == terminal
        assert terminal or len(shown.splitlines()) == 5
