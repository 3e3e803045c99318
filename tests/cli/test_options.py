"""Every option of `train`, `compile` and `bench` is done, refused or said: a table with an entry an option.

A run ends where a step would be compiled, trained or timed; what it would be made of is what an option is seen in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from typer import main as typer_main

from mest_compiler import models
from mest_compiler.bench import compare
from mest_compiler.cli import bench, bench_artifacts, compiling, training
from mest_compiler.cli.main import app
from mest_compiler.errors import MestError
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.training import data as data_sets

from .bench_options import BENCH
from .conftest import LAYER, SHAPE
from .option_checks import Does, Seen
from .option_tables import BLOCK, COMPILE, TRAIN
from .tiny_runs import CLASSES, rows

OTHER = """
from torch import nn


def fixed():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def wide(num_classes=10, in_chans=3, width_mult=1.0):
    width = int(8 * width_mult)
    return nn.Sequential(
        nn.Conv2d(in_chans, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes),
    )
"""


TABLES = {"train": TRAIN, "compile": COMPILE, "bench": BENCH}


class Enough(MestError):
    """What was to be seen has been seen."""


EVERY = [
    pytest.param(command, *option, id=f"{command}-{name}-{number}")
    for command, table in TABLES.items()
    for name, options in table.items()
    for number, option in enumerate(options)
]


@pytest.mark.parametrize("command", TABLES)
def test_every_option_has_an_entry(command: str) -> None:
    group = typer_main.get_command(app)
    parameters = group.get_command(click.Context(group), command).params
    assert {parameter.name for parameter in parameters} == set(TABLES[command])


@pytest.mark.parametrize(("command", "arguments", "does"), EVERY)
def test_an_option_is_done_refused_or_said(
    watched: Callable[..., Seen], command: str, arguments: tuple[str, ...], does: Does
) -> None:
    seen = watched(command, *arguments)
    assert does(seen), (seen.status, seen.stderr, seen.of)


@pytest.fixture
def watched(run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Seen]]:
    """Run a command with what it cannot do without; it ends where a step would be compiled, trained or timed."""
    seen = Seen()
    files()
    built = {"device": {"name": "cpu", "kind": "cpu"}, "batch": 8, "input_shape": [3, 8, 8], "classes": 10}
    step = SimpleNamespace(manifest=built, structures={LAYER: None})
    begin_run = training.begin_run

    def note(function: str, /, **arguments: object) -> None:
        seen.of[function] = arguments

    def load(root: object, seed: int, size: int | None) -> object:
        note("load", root=root, size=size)
        return rows()

    def begun(started: object, run_dir: Path, **arguments: object) -> None:
        found = data_sets.load_recipe_data

        def counted(recipe: object) -> object:
            examples = found(recipe)
            note("begin_run", recipe=started, run_dir=run_dir, data=examples.train_count, **arguments)
            return examples

        monkeypatch.setattr(data_sets, "load_recipe_data", counted)
        begin_run(started, run_dir, **arguments)

    def compile_with_bar(title: str, model: object, **arguments: object) -> None:
        note("compile_with_bar", title=title, model=model, **arguments)
        raise Enough("enough")

    def train(*_: object) -> None:
        note("train", checkpoint_steps=_[-1])
        raise Enough("enough")

    def compare_layer(case: object, opponents: object, **arguments: object) -> None:
        note("compare_layer", case=case, opponents=opponents, **arguments)
        raise Enough("enough")

    def measured(artifacts: object, paths: object, case: object, *others: object) -> None:
        _, threads, _, profile_kernels = others
        note("measured", artifacts=artifacts, threads=threads, profile_kernels=profile_kernels)
        raise Enough("enough")

    def measured_remotely(artifacts: object, paths: object, where: object, *others: object) -> None:
        note("measured_remotely", where=where, rest=others[2])
        raise Enough("enough")

    monkeypatch.setattr(Artifact, "load", lambda path: step)
    monkeypatch.setitem(data_sets.LOADERS, "rows", load)
    monkeypatch.setattr(training, "begin_run", begun)
    monkeypatch.setattr(training, "_train", train)
    monkeypatch.setattr(compiling, "compile_with_bar", compile_with_bar)
    monkeypatch.setattr(compare, "compare_layer", compare_layer)
    for module in (bench, bench_artifacts):
        monkeypatch.setattr(module, "measured", measured)
        monkeypatch.setattr(module, "measured_remotely", measured_remotely)

    def watch(command: str, *arguments: str) -> Seen:
        done = run(command, *usual(command, arguments))
        seen.stdout, seen.stderr, seen.status = done.stdout, done.stderr, done.exit_code
        assert done.exit_code in (0, 2), done.exception
        return seen

    yield watch


def usual(command: str, arguments: tuple[str, ...]) -> list[str]:
    """The arguments with those that a command needs and that they do not say."""
    given = list(arguments)
    named = bool(given) and not given[0].startswith("-")
    if command == "train":
        needed = {"--model": "net.py:make", "--data": "rows", "--epochs": "4", "--batch": "16"}
        needed = {} if named or "--list" in given else needed
        needed |= {"--run-dir": "runs/net"}
    else:
        given = given if named else ["net.py:make", *given]
        layer_or_step = given[0] == "step" or given[0].startswith("layer:")
        needed = {} if layer_or_step else {"--plane": "8x8"}
        needed |= {"--output": "runs/step"} if command == "compile" else {}
    for name, value in needed.items():
        if name not in given:
            given += [name, value]
    return given


def files() -> None:
    """A profile, masks, weights with zeros, models of other kinds and the place of a step, in the working folder."""
    Path("step").touch()
    Path("other.py").write_text(OTHER)
    Path("profile.yaml").write_text("{scheme: block, sparsity: 0.75}")
    Path("pruned.yaml").write_text(f"prune_ratios: {{{LAYER}: 0.775}}")
    mask = np.zeros(SHAPE, bool)
    mask[:4] = True
    save_file({LAYER: mask}, "masks.safetensors")
    for classes, path in ((CLASSES, "four.safetensors"), (10, "ten.safetensors")):
        state = models.build("net.py:make", classes=classes, in_channels=1, seed=0).state_dict()
        weights = {name: tensor.numpy() for name, tensor in state.items()}
        save_file({**weights, LAYER: weights[LAYER] * mask}, path)
        if classes == CLASSES:
            torch.save({"epoch": 3, "ema": state}, "nested.pt")


def test_a_whole_run_says_what_was_asked_and_done(mest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its JSON too; and a run that goes on says what it goes on with."""
    monkeypatch.setitem(data_sets.LOADERS, "rows", lambda root, seed, size: rows())
    asked = ("--model", "net.py:make", "--data", "rows", "--epochs", "1", "--batch", "16", *BLOCK)
    done = mest("train", *asked, "--backend", "torch", "--run-dir", "runs/net", "--json", "-")
    result = json.loads(done.stdout)
    assert result["asked"] == {"scheme": "block", "sparsity": 0.5}
    assert result["done"]["sparse_layers"] == 1
    assert [(one["name"], one["scheme"], one["sparsity"], one["why"] is None) for one in result["done"]["layers"]] == [
        ("0.weight", "dense", 0.0, False),
        (LAYER, "block", 0.5, True),
        ("8.weight", "dense", 0.0, False),
    ]
    again = json.loads(mest("train", "--run-dir", "runs/net", "--resume", "--json", "-").stdout)
    assert again["done"]["sparsity"] == result["done"]["sparsity"]
    assert {one["name"]: one["scheme"] for one in again["done"]["layers"]}[LAYER] == "block"
