"""The worked examples of docs/architecture.md are chosen by name, as their one line in a table says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mest_compiler.losses import LOSSES
from mest_compiler.optimizers import OPTIMIZERS
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.sparsity.methods import METHODS, Need
from mest_compiler.training import data as data_sets

from ..examples import FOLDER, example
from .tiny_runs import rows

GUIDE = FOLDER.parents[0] / "architecture.md"
TABLES = {"lion": (OPTIMIZERS, "Lion"), "focal": (LOSSES, "Focal"), "rewiring": (METHODS, "RandomRewiring")}
"""Of each example its table, and its class."""


@pytest.fixture
def registered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The line of each, and data for a run."""
    for name, (table, kind) in TABLES.items():
        one = getattr(example(name), kind)
        monkeypatch.setitem(table, one.name, one)
    monkeypatch.setitem(data_sets.LOADERS, "rows", lambda root, seed, size: rows())
    return folder


def test_the_guide_shows_every_file_and_its_line() -> None:
    guide = GUIDE.read_text()
    for path in FOLDER.glob("*.py"):
        assert f"(examples/{path.name})" in guide
    for name, (_, kind) in TABLES.items():
        assert f'`"{getattr(example(name), kind).name}": {kind},`' in guide


def test_a_run_with_a_new_optimiser_loss_and_method(mest, refused, registered: Path) -> None:
    recipe = {
        "model": "net.py:make", "data": "rows", "epochs": 3, "batch": 16, "scheme": "block", "sparsity": 0.5,
        "loss": "focal", "augment": False,
    }  # fmt: skip
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    new = ("--optimizer", "lion", "--method", "random", "--settings", "rewired=0.5,gamma=1.5")
    assert (
        "settings of a recipe has 'zeta', which is none of optimiser 'lion', loss 'focal' or method 'random'"
        in refused("train", "r.yaml", *new[:-1], "zeta=0.3")
    )
    result = json.loads(mest("train", "r.yaml", *new, "--run-dir", "run", "--threads", "1", "--json", "-").stdout)
    assert [record["grown"] > 0 for record in result["records"]] == [True, True, False]
    assert (result["recipe"]["lr"], result["recipe"]["betas"], result["recipe"]["p"]) == (1e-4, [0.9, 0.99], None)
    manifest = Artifact.load(Path("run/artifact")).manifest
    assert (manifest["optimizer"]["name"], manifest["loss"]) == ("lion", {"name": "focal", "gamma": 1.5})
    # the other engine goes on with it
    mest("train", "--resume", "--run-dir", "run", "--epochs", "4", "--backend", "torch")


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_a_method_that_no_engine_can_serve_is_refused_before_the_run(
    refused, registered: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    class Dense(METHODS["random"]):
        name, needs = "dense", frozenset({Need.DENSE_GRADIENT})

    monkeypatch.setitem(METHODS, "dense", Dense)
    given = ("--scheme", "block", "--sparsity", "0.5", "--epochs", "3", "--method", "dense", "--backend", engine)
    sentence = refused("train", "--model", "net.py:make", "--data", "rows", *given)
    assert "Method 'dense' needs the gradients of weights that are not kept, which this backend does not" in sentence


def test_help_names_every_method_and_optimiser(mest) -> None:
    said = " ".join(mest("train", "--help").stdout.replace("│", " ").split())
    assert all(f"{name}: {kind.what}"[:40] in said for name, kind in METHODS.items())
    assert ", ".join(OPTIMIZERS) in said
