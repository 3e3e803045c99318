"""The loop with the PyTorch backend: it learns, leaves its files, and goes on bit by bit after any
interruption."""

import dataclasses
import io
import json
import signal

import numpy as np
import pytest
from rich.console import Console

from mest_compiler.errors import CheckpointError, DataError, MestError
from mest_compiler.training.loop import evaluate, train
from mest_compiler.training.progress import QuietReporter, RichReporter

TIMES = {"ms_per_iteration", "seconds"}


class CtrlC(QuietReporter):
    """Presses Ctrl-C after so many steps, counted over the run, or at an epoch's end."""

    def __init__(self, after_steps=None, after_epoch=None):
        self.left, self.after_epoch, self.notes = after_steps, after_epoch, []

    def step_finished(self, done, loss):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)

    def epoch_finished(self, record, epochs):
        if record.epoch == self.after_epoch:
            signal.raise_signal(signal.SIGINT)

    def note(self, sentence):
        self.notes.append(sentence)


def log_lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def without_times(records):
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def same_state(a, b):
    for part in ("state", "momentum", "masks"):
        ours, theirs = getattr(a, part)(), getattr(b, part)()
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name].tobytes() == theirs[name].tobytes(), name


@pytest.fixture
def whole(new_backend, data, recipe, tmp_path):
    """(backend, folder, summary) of an uninterrupted run."""
    backend, folder = new_backend(), tmp_path / "whole"
    summary = train(backend, data, recipe, folder, resume=False, reporter=QuietReporter())
    return backend, folder, summary


def test_the_loss_goes_down_and_the_network_learns(whole, data):
    backend, _, summary = whole
    losses = [record.loss for record in summary.records]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.75 * losses[0]
    assert summary.test_accuracy > 0.8
    assert summary.test_accuracy == evaluate(backend, data.test_x, data.test_y)
    assert summary.epochs == 3


def test_the_log_has_a_line_an_epoch(whole, recipe):
    _, folder, summary = whole
    lines = log_lines(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines == [dataclasses.asdict(record) for record in summary.records]
    assert set(lines[0]) == {"epoch", "loss", "train_accuracy", "test_accuracy", "lr"} | TIMES
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
    whole, new_backend, data, recipe, tmp_path, reporter, checkpoint_steps, said
):
    options = {"checkpoint_steps": checkpoint_steps}
    with pytest.raises(KeyboardInterrupt, match=said):
        train(new_backend(), data, recipe, tmp_path / "cut", resume=False, reporter=reporter, **options)
    assert said in reporter.notes[0]

    backend = new_backend()
    summary = train(backend, data, recipe, tmp_path / "cut", resume=True, reporter=QuietReporter(), **options)
    expected_backend, expected_folder, expected = whole
    same_state(backend, expected_backend)
    assert without_times(log_lines(tmp_path / "cut")) == without_times(log_lines(expected_folder))
    assert without_times(map(dataclasses.asdict, summary.records)) == without_times(
        map(dataclasses.asdict, expected.records)
    )


def test_an_interrupted_write_keeps_the_checkpoint_before_it(whole, new_backend, data, recipe, tmp_path):
    class CutShort(type(new_backend())):
        """Is interrupted with half of the second epoch's checkpoint written."""

        saves = 0

        def save(self, path, extra):
            self.saves += 1
            if self.saves == 3:
                path.write_bytes(b"half")
                signal.raise_signal(signal.SIGINT)
            super().save(path, extra)

    backend = new_backend()
    backend.__class__ = CutShort
    with pytest.raises(KeyboardInterrupt, match="holds 1 of 3 epochs"):
        train(backend, data, recipe, tmp_path / "cut", resume=False, reporter=QuietReporter())
    assert len(list((tmp_path / "cut").iterdir())) == 3
    backend = new_backend()
    train(backend, data, recipe, tmp_path / "cut", resume=True, reporter=QuietReporter())
    same_state(backend, whole[0])


def test_a_log_line_beyond_the_checkpoint_is_taken_back(whole, new_backend, data, recipe):
    _, folder, summary = whole
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"epoch": 4')
    again = train(new_backend(), data, recipe, folder, resume=True, reporter=QuietReporter())
    assert again == summary
    assert len(log_lines(folder)) == 3


def test_a_second_run_does_not_write_over_the_first(whole, new_backend, data, recipe):
    with pytest.raises(CheckpointError, match="already holds a run: resume it or choose another folder"):
        train(new_backend(), data, recipe, whole[1], resume=False, reporter=QuietReporter())


def test_there_must_be_something_to_resume(new_backend, data, recipe, tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume"):
        train(new_backend(), data, recipe, tmp_path, resume=True, reporter=QuietReporter())


def test_a_run_goes_on_with_its_own_recipe_and_data_only(whole, new_backend, data, recipe):
    def resume(data, recipe):
        train(new_backend(), data, recipe, whole[1], resume=True, reporter=QuietReporter())

    with pytest.raises(CheckpointError, match=r"made with lr 0\.1 and the recipe now says 0\.2"):
        resume(data, dataclasses.replace(recipe, lr=0.2))
    with pytest.raises(CheckpointError, match="made with other images or labels"):
        resume(dataclasses.replace(data, train_y=(data.train_y + 1) % 3), recipe)
    with pytest.raises(DataError, match="asks for data set mnist and was given rows"):
        resume(data, dataclasses.replace(recipe, data="mnist"))
    resume(data, dataclasses.replace(recipe, data_root="/elsewhere"))


def test_a_checkpoint_of_something_else_is_refused(new_backend, data, recipe, tmp_path):
    new_backend().save(tmp_path / "checkpoint.safetensors", {"epoch": 3})
    with pytest.raises(CheckpointError, match="was not written by this training loop"):
        train(new_backend(), data, recipe, tmp_path, resume=True, reporter=QuietReporter())


def test_a_diverging_run_stops_with_a_sentence(new_backend, data, recipe, tmp_path):
    data.train_x[5] = np.inf
    with pytest.raises(MestError, match=r"the loss became nan in epoch 1, step \d of 6, at learning rate 0\.\d+"):
        train(new_backend(), data, recipe, tmp_path, resume=False, reporter=QuietReporter())


def test_the_rich_reporter_shows_a_line_an_epoch(new_backend, data, recipe, tmp_path):
    for terminal in (False, True):
        screen = io.StringIO()
        reporter = RichReporter(Console(file=screen, force_terminal=terminal, width=100))
        train(new_backend(), data, recipe, tmp_path / str(terminal), resume=False, reporter=reporter)
        reporter.note("a sentence")
        shown = screen.getvalue()
        assert shown.count("ms/iteration") == 3
        assert "epoch 3/3  loss 0." in shown
        assert shown.endswith("a sentence\n")
        # The bar is drawn on a terminal only; a file has the three lines and the sentence.
        assert ("━" in shown) == terminal
        assert terminal or len(shown.splitlines()) == 4
