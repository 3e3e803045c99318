"""`mest report forgetting`: the sheet and the numbers are those of the run's checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest

from mest_compiler.runtime import checkpoint
from mest_compiler.training import data as data_sets
from mest_compiler.training.data import DataSet
from mest_compiler.training.forgotten import Forgotten
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.run_plots import plot_forgetting

from .tiny_runs import IMAGES, make_run, rows


def _counts(run_dir: Path) -> dict[str, np.ndarray]:
    return dict(checkpoint.read(run_dir / "checkpoint.safetensors", None).arrays)


def test_the_numbers_are_the_checkpoints(mest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(folder, monkeypatch, de_epoch=2, de_threshold=0)
    said = json.loads(mest("report", "forgetting", run_dir, "--images", "7", "--json", "-").stdout)
    counts = _counts(run_dir)
    learned, events = counts["learned"], counts["events"]
    assert said["images"] == IMAGES == said["learned"] + said["never_learned"]
    assert said["ids"]["unforgettable"] == np.flatnonzero(learned & (events == 0)).tolist()
    assert said["ids"]["unforgettable"] == said["ids"]["removed"] == counts["removed"].tolist()
    assert said["removed"] == len(counts["removed"]) > 0
    assert said["ids"]["never_learned"] == np.flatnonzero(~learned).tolist()
    assert said["histogram"] == np.bincount(events[learned]).tolist()
    assert sum(said["histogram"]) == said["learned"]
    assert said["epochs"] == 4
    least = said["least_forgettable"]
    assert [one["events"] for one in least] == sorted(events[learned].tolist())[:7]
    assert all(one["label"] == rows().train_y[one["id"]] for one in least)
    assert (run_dir / "forgetting.png").read_bytes().startswith(b"\x89PNG")


def test_a_broken_off_run_and_another_place(mest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(folder, monkeypatch, stop=8)
    mest("report", "forgetting", run_dir, "--output", "sheet.png")
    assert Path("sheet.png").exists()
    assert not (run_dir / "forgetting.png").exists()


def _forgotten(events: list[int], learned: list[bool]) -> Forgotten:
    arrays = {
        "events": np.array(events, np.int32),
        "learned": np.array(learned),
        "right": np.array(learned),
        "removed": np.zeros(0, np.int64),
    }
    recipe = Recipe(model="tiny", data="rows", epochs=1)
    return Forgotten(arrays, recipe, np.arange(len(events)), "a checkpoint")


def test_both_ends() -> None:
    forgotten = _forgotten([3, 0, 1, 0, 5, 0], [True, True, True, False, True, True])
    assert forgotten.most(2).tolist() == [4, 0]
    assert forgotten.most(9).tolist() == [4, 0, 2]
    assert set(forgotten.least(2).tolist()) == {1, 5}
    assert forgotten.least(9).tolist()[2:] == [2, 0, 4]
    assert forgotten.histogram().tolist() == [2, 1, 0, 1, 0, 1]
    assert forgotten.never_learned.tolist() == [3]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_of_any_channels(tmp_path: Path, channels: int) -> None:
    """Also with nothing forgotten, and an image of one value."""
    forgotten = _forgotten([0, 0], [True, True])
    images = {0: np.zeros((channels, 4, 5), np.float32), 1: np.random.default_rng(0).normal(size=(channels, 4, 5))}
    plot_forgetting(tmp_path / "sheet.png", forgotten, images, 20, "costs $1, or $2")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_what_it_refuses(refused, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(folder, monkeypatch, epochs=1)
    assert "holds no run" in refused("report", "forgetting", folder)
    assert "cannot use 'net.py/a.png'" in refused("report", "forgetting", run_dir, "--output", "net.py/a.png")

    def other(root: object, seed: int, size: object) -> DataSet:
        return rows(seed=1)

    monkeypatch.setitem(data_sets.LOADERS, "rows", other)
    assert "was trained on other data than data set rows has here (inputs or targets)" in refused(
        "report", "forgetting", run_dir
    )
    checkpoint_file = run_dir / "checkpoint.safetensors"
    checkpoint_file.write_bytes(checkpoint_file.read_bytes()[:-1])
    assert "is damaged" in refused("report", "forgetting", run_dir)
    checkpoint_file.unlink()
    assert "There is no checkpoint at" in refused("report", "forgetting", run_dir)
