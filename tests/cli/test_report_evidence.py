"""`mest report evidence`: real runs of a small network, going on after a break, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import pytest

from mest_compiler.bench import evidence
from mest_compiler.bench.evidence import Cell, cells, groups, recipe_of, table
from mest_compiler.devices import CpuProfile
from mest_compiler.training.recipe import Recipe

from ..whole_step.cases import unoptimised
from . import evidence_groups
from .tiny_runs import write_images

RECIPE = """
model: net.py:make
data: folder
data_root: images
size: 16
epochs: 3
batch: 16
lr: 0.1
scheme: block
sparsity: 0.5
method: em&s
p: 0.1
mutate_every: 1
mutate_until: 2
de_epoch: 2
de_remove: 2
"""
CSV, PNG = Path("out/evidence.csv"), Path("out/evidence.png")
ARGUMENTS = ("report", "evidence", "--recipe", "r.yaml", "--schemes", "block", "--sparsities", "0.5", "--output", "out")
BASE = Recipe(
    model="resnet20", data="mnist", epochs=10, scheme="block", sparsity=0.9, method="em&s", p=0.05, mutate_until=8,
    de_epoch=5, de_threshold=0,
)  # fmt: skip


class Here:
    """A pool of this process."""

    def __init__(self, jobs: int, **_: object) -> None:
        self.jobs = jobs

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to be done."""

    def submit(self, call: Callable[..., object], *arguments: object) -> Future:
        """Do it at once."""
        done: Future = Future()
        done.set_result(call(*arguments))
        return done


@pytest.fixture(autouse=True)
def _unoptimised(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow tests train in processes of their own, and optimised: a run in this one has to end the same to the last
    bit. The others train here."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(CpuProfile, "target", property(unoptimised))
        monkeypatch.setattr(evidence, "ProcessPoolExecutor", Here)


@pytest.fixture
def base(folder: Path) -> Path:
    """A folder with the base recipe and 40 images."""
    write_images(folder / "images", 20)
    (folder / "r.yaml").write_text(RECIPE)
    return folder


def _rows() -> list[dict[str, str]]:
    with CSV.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_cell_has_its_own_recipe() -> None:
    wanted = cells(evidence.METHODS, ("block", "pattern"), (0.9, 0.98))
    assert len(wanted) == 1 + 2 * 2 * 5
    assert wanted[0] == Cell("", 0.0, "dense")
    dense = recipe_of(wanted[0], BASE, 3)
    assert (dense.scheme, dense.sparsity, dense.method, dense.de_epoch, dense.seed) == (None, None, "static", None, 3)
    em = recipe_of(Cell("pattern", 0.98, "em"), BASE, 0)
    assert (em.scheme, em.sparsity, em.method, em.p, em.de_epoch) == ("pattern", 0.98, "em", 0.01, None)
    efficient = recipe_of(Cell("block", 0.9, "em&s+de"), BASE, 0)
    assert (efficient.method, efficient.p, efficient.de_epoch, efficient.de_threshold) == ("em&s", 0.05, 5, 0)


def test_runs_share_a_step_where_they_have_the_same_room() -> None:
    found = groups([(cell, seed) for cell in cells(evidence.METHODS, ("block",), (0.9,)) for seed in (0, 1)], BASE)
    assert [sorted({cell.method for cell, _ in group}) for group in found] == [
        ["dense"], ["em", "static", "vanilla"], ["em&s", "em&s+de"],
    ]  # fmt: skip
    assert sum(map(len, found)) == 12


@pytest.mark.parametrize(
    "methods", [("em&s+de",), pytest.param(("dense", "em", "em&s+de"), marks=pytest.mark.slow)], ids=",".join
)
def test_the_table_has_means_and_deviations(mest, base: Path, methods: tuple[str, ...]) -> None:
    result = json.loads(
        mest(*ARGUMENTS, "--methods", ",".join(methods), "--seeds", "2", "--jobs", "2", "--json", "-").stdout
    )
    rows = _rows()
    assert [(row["method"], row["seed"]) for row in rows] == [(method, seed) for method in methods for seed in "01"]
    assert [row["removed"] for row in rows] == [n for method in methods for n in ["2" if "+de" in method else "0"] * 2]
    assert PNG.stat().st_size > 10_000
    for entry, method in zip(result["cells"], methods, strict=True):
        found = [float(row["test_accuracy"]) for row in rows if row["method"] == method]
        assert entry["accuracy"] == pytest.approx(sum(found) / 2)
        assert entry["deviation"] == pytest.approx(abs(found[0] - found[1]) / 2**0.5)
    # what a row says is what mest train does, though its step was compiled for another seed
    mest(
        "train", "r.yaml", "--run-dir", "run", "--method", "em&s", "--p", "0.25", "--seed", "1", "--threads", "1",
        "--json", "run.json",
    )  # fmt: skip
    trained = json.loads(Path("run.json").read_text())
    assert trained["test_accuracy"] == float(rows[-1]["test_accuracy"])


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(mest, refused, base: Path) -> None:
    arguments = (*ARGUMENTS, "--methods", "em")
    mest(*arguments, "--seeds", "1")
    first = _rows()
    assert "exists: go on with --resume" in refused(*arguments, "--seeds", "2")
    mest(*arguments, "--seeds", "2", "--resume")
    assert _rows()[0] == first[0] and [row["seed"] for row in _rows()] == ["0", "1"]
    (base / "r.yaml").write_text(RECIPE.replace("epochs: 3", "epochs: 4"))
    assert "was measured with epochs 3, not 4" in refused(*arguments, "--seeds", "2", "--resume")


def test_groups_are_trained_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "ProcessPoolExecutor", ProcessPoolExecutor)
    monkeypatch.setattr(evidence, "train_group", evidence_groups.train_group)
    wanted = [(Cell("block", 0.9, method), 0) for method in ("em", "em&s")]
    found = list(evidence.measure(wanted, BASE, jobs=2, threads=1, device="cpu", command="mest"))
    assert sorted(rest for _, *rest in found) == [[[("em", 0)], 10, 1, 2], [[("em&s", 0)], 10, 1, 2]]
    assert os.getpid() not in {pid for pid, *_ in found}


def test_what_cannot_be_is_refused(refused, base: Path) -> None:
    assert "There is no method 'rigl': use some of dense, static" in refused(*ARGUMENTS, "--methods", "rigl")
    assert "unknown recipe 'none'" in refused("report", "evidence", "--recipe", "none")
    assert not CSV.parent.exists()


def test_the_order_of_the_table() -> None:
    said = dict.fromkeys(("model", "data", "device", "machine", "torch", "tvm", "date", "command"), "")
    said |= dict.fromkeys(("examples", "epochs", "batch", "jobs", "threads", "removed", "seed"), 1)
    said |= dict.fromkeys(("width", "noise", "p", "seconds", "ms_per_iteration", "state_mb", "test_accuracy"), 0.5)
    mixed = [("pattern", 0.9, "em"), ("block", 0.98, "static"), ("", 0.0, "dense"), ("block", 0.9, "em&s")]
    rows = [evidence.Trained(scheme=k, sparsity=s, method=m, **said) for k, s, m in mixed]
    assert [entry.cell for entry in table(rows)] == [
        Cell("", 0.0, "dense"), Cell("block", 0.9, "em&s"), Cell("block", 0.98, "static"), Cell("pattern", 0.9, "em"),
    ]  # fmt: skip
    assert table(rows)[0].deviation is None
