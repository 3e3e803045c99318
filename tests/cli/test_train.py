"""`mest train`: recipes and the options that overrule them, what a run leaves, and that a resumed run is the same."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from mest_compiler.cli.main import app
from mest_compiler.cli.recipe_options import chosen_recipe
from mest_compiler.errors import MestError
from mest_compiler.sparsity.schemes import get_scheme

RUN = Path("runs/net")
TINY = ("train", "--model", "net.py:make", "--data", "mnist", "--batch", "250", "--run-dir", RUN, "--threads", "1")
BLOCK = ("--scheme", "block", "--sparsity", "0.5")
LAYER, SHAPE = "3.weight", (16, 8, 3, 3)


def test_options_overrule_a_recipe() -> None:
    given = {"epochs": 2, "lr": None, "milestones": "3,5", "schedule": "step", "model": "net.py:make"}
    recipe = chosen_recipe("demo", RUN, False, given)
    assert (recipe.epochs, recipe.lr, recipe.milestones) == (2, 0.1, (3, 5))
    assert recipe.model == f"{Path.cwd() / 'net.py'}:make"
    assert (recipe.scheme, recipe.sparsity) == ("block", 0.9)


def test_a_profile_takes_the_place_of_a_scheme(tmp_path: Path) -> None:
    recipe = chosen_recipe("demo", RUN, False, {"profile": tmp_path / "profile.yaml"})
    assert (recipe.scheme, recipe.sparsity, recipe.profile) == (None, None, str(tmp_path / "profile.yaml"))


def test_what_makes_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(MestError, match="lacks the keys model, data, epochs"):
        chosen_recipe(None, tmp_path, False, {})
    with pytest.raises(MestError, match="holds no run to resume"):
        chosen_recipe(None, tmp_path, True, {})


def test_a_run_and_what_it_leaves(mest, refused, folder: Path) -> None:
    mask = get_scheme("block").random_mask(SHAPE, 0.75, np.random.default_rng(5))
    save_file({LAYER: mask}, "masks.safetensors")
    arguments = (*TINY, *BLOCK, "--epochs", "2", "--masks", "masks.safetensors")
    result = json.loads(mest(*arguments, "--json", "-").stdout)
    assert result["epochs"] == len(result["records"]) == 2
    assert result["losses"][0] > result["losses"][1]
    assert result["state_bytes"] == sum(result["state_bytes_details"].values())
    left = {
        "artifact",
        "checkpoint.safetensors",
        "log.jsonl",
        "masks.safetensors",
        "recipe.yaml",
        "weights.safetensors",
    }
    assert {path.name for path in RUN.iterdir()} == left
    assert np.array_equal(load_file(RUN / "masks.safetensors")[LAYER], mask)
    assert np.array_equal(load_file(RUN / "weights.safetensors")[LAYER] != 0, mask)

    assert "already holds a run" in refused(*arguments)
    assert "goes on with its own masks" in refused(*TINY, "--resume", "--masks", "masks.safetensors")
    # finished, so there is nothing left to do; its recipe is the one beside the checkpoint
    again = json.loads(mest("train", "--run-dir", RUN, "--resume", "--json", "-").stdout)
    assert again["records"] == result["records"]
    different = CliRunner().invoke(app, ["train", "--run-dir", str(RUN), "--resume", "--momentum", "0.5"])
    assert different.exit_code == 2
    assert "was made with momentum 0.9" in different.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "imagenet"], "unknown data set 'imagenet'"),
        (["--data", "cifar10"], "say where its unpacked archive is"),
        (["--epochs", "0"], "epochs of a recipe is at least 1"),
        (["--masks", "other.safetensors"], "is of another model"),
        (["--masks", "ragged.safetensors"], "is no mask of scheme 'block'"),
        (["--milestones", "a"], "'a' is no list of epochs"),
        (["--batch", "5000"], "fewer than one batch of 5000"),
        (["--run-dir", "net.py/run"], "net.py/run"),
        (["--resume"], "holds no run to resume"),
    ],
)
def test_bad_input_leaves_no_folder(refused, folder: Path, arguments: list[str], sentence: str) -> None:
    ragged = np.ones(SHAPE, bool)
    ragged[0] = False
    save_file({LAYER: ragged}, "ragged.safetensors")
    save_file({"conv1.weight": np.ones((4, 3, 3, 3), bool)}, "other.safetensors")
    assert sentence in refused(*TINY, *BLOCK, "--epochs", "1", *arguments)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_interrupted_and_resumed_is_bit_equal(mest, folder: Path) -> None:
    arguments = [str(part) for part in (*TINY, *BLOCK, "--epochs", "6", "--checkpoint-steps", "3")]
    whole = [part if part != str(RUN) else "runs/whole" for part in arguments]
    mest(*whole)

    def interrupt() -> None:
        log = RUN / "log.jsonl"
        while not (log.exists() and log.read_text().count("\n") >= 2):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    stopped = CliRunner().invoke(app, arguments)
    assert stopped.exit_code == 130
    assert "resume the run to go on from there" in stopped.stderr
    assert len((RUN / "log.jsonl").read_text().splitlines()) < 6
    mest("train", "--run-dir", RUN, "--resume")
    first, second = (load_file(Path(run, "weights.safetensors")) for run in ("runs/whole", RUN))
    assert first.keys() == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
