"""`mest report run`: the picture and the numbers of runs that are finished, broken off, or no runs."""

import json
from pathlib import Path

import pytest

from .tiny_runs import MUTATING, make_run


@pytest.fixture
def run_dir(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run that mutated after its first two epochs."""
    return make_run(folder, monkeypatch, **MUTATING)


def _png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_one_run(mest, run_dir: Path) -> None:
    done = mest("report", "run", run_dir, "--json", "-")
    (said,) = json.loads(done.stdout)["runs"]
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    assert said["records"] == lines
    assert (said["finished"], said["mutation_epochs"]) == (True, [1, 2])
    assert said["best_test_accuracy"] == max(line["test_accuracy"] for line in lines)
    assert said["recipe"]["method"] == "em"
    assert _png(run_dir / "run.png")
    assert "4 of 4 epochs" in done.stderr


def test_several_runs(mest, refused, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = run_dir.rename(run_dir.with_name("$first"))
    make_run(run_dir.parent, monkeypatch, epochs=1)
    assert "say with --output where it goes" in refused("report", "run", other, run_dir)
    mest("report", "run", other, run_dir, "--output", "both.png", "--json", "both.json")
    said = json.loads(Path("both.json").read_text())
    assert [len(one["records"]) for one in said["runs"]] == [4, 1]
    assert _png(Path("both.png"))
    assert not (other / "run.png").exists()


def test_a_run_that_is_going_on(mest, refused, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(folder, monkeypatch, stop=15)
    with (run_dir / "log.jsonl").open("a") as log:
        log.write('{"epoch": 3, "lo')  # being written
    said = json.loads(mest("report", "run", run_dir, "--json", "-").stdout)["runs"][0]
    assert (said["finished"], len(said["records"])) == (False, 2)
    (run_dir / "log.jsonl").write_text("")
    assert "has not finished its first epoch" in refused("report", "run", run_dir)


def _edit(**changes: object):
    def change(line: str) -> str:
        record = json.loads(line) | changes
        return json.dumps({key: value for key, value in record.items() if value is not None})

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda line: line[:-1], "line 2, is no JSON"),
        (_edit(loss=None), "line 2, is no record of an epoch: it lacks 'loss'"),
        (_edit(colour=1), "has the unknown 'colour'"),
        (_edit(kept=1.5), "kept is 1.5 and not a whole number"),
        (_edit(loss="low"), "loss is 'low' and not a number"),
        (_edit(loss=float("nan")), "loss is nan and not a number"),
        (_edit(epoch=7), "line 2, is of epoch 7"),
        (lambda line: "[1]", "line 2, is no record of an epoch"),
    ],
)
def test_a_damaged_log(refused, run_dir: Path, change, sentence: str) -> None:
    log = run_dir / "log.jsonl"
    lines = log.read_text().splitlines()
    lines[1] = change(lines[1])
    log.write_text("\n".join(lines) + "\n")
    assert sentence in refused("report", "run", run_dir)
    assert not (run_dir / "run.png").exists()


def test_no_run(refused, run_dir: Path) -> None:
    assert "holds no run" in refused("report", "run", run_dir.parent)
    assert "holds no run" in refused("report", "run", run_dir.parent / "nothing")
    assert "cannot use 'net.py/a.png': Not a directory" in refused("report", "run", run_dir, "--output", "net.py/a.png")
    (run_dir / "recipe.yaml").write_text("model: resnet20\nepoch: 3\n")
    assert "did you mean 'epochs'" in refused("report", "run", run_dir)
    (run_dir / "log.jsonl").unlink()
    (run_dir / "recipe.yaml").write_text("model: resnet20\ndata: rows\nepochs: 3\n")
    assert "log.jsonl cannot be read" in refused("report", "run", run_dir)
