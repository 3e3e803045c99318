"""A run that is killed at random moments always goes on from an intact checkpoint, and ends as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mest_compiler.errors import CheckpointError
from mest_compiler.runtime import checkpoint

from .tiny_runs import write_images

STEPS, EPOCHS = 10, 5
"""Steps of an epoch, 100 images in batches of 10, and epochs of a run."""
RECIPE = f"""
model: net.py:make
data: folder
data_root: images
size: 16
epochs: {EPOCHS}
batch: 10
scheme: block
sparsity: 0.5
method: em&s
p: 0.1
mutate_every: 1
mutate_until: 3
p_milestones: [2]
de_epoch: 4
de_remove: 20
"""
USUAL = ("--threads", "1", "--checkpoint-steps", "2")
UNTIMED = (
    "epoch", "loss", "train_accuracy", "test_accuracy", "lr", "kept", "removed", "grown", "examples", "unforgettable",
)  # fmt: skip


def start(*arguments: str) -> subprocess.Popen:
    """`mest train`, a process of its own that works in the current folder."""
    command = [sys.executable, "-m", "mest_compiler.cli.main", "train", *USUAL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEST_CACHE": str(Path("cache").resolve())}
    return subprocess.Popen([*command, *arguments], stderr=Path("said.txt").open("w"), env=environment)


def finish(process: subprocess.Popen) -> None:
    assert process.wait(timeout=300) == 0, Path("said.txt").read_text()


def steps_done(run: Path) -> int:
    """Steps that the checkpoint holds; reading it verifies it. -1 where there is none yet."""
    try:
        position = checkpoint.read(run / "checkpoint.safetensors", None).extra["position"]
    except CheckpointError as error:
        if "There is no checkpoint" in str(error):
            return -1
        raise
    return position["epoch"] * STEPS + position["step"]


def kill_at(process: subprocess.Popen, run: Path, steps: int, delay: float) -> None:
    """End the process the hard way, `delay` seconds after its checkpoint holds `steps` steps."""
    try:
        while steps_done(run) < steps:
            assert process.poll() is None, Path("said.txt").read_text()
            time.sleep(0.003)
        time.sleep(delay)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL


def assert_equal_ends(one: Path, other: Path) -> None:
    first, second = (checkpoint.read(run / "checkpoint.safetensors", None) for run in (one, other))
    assert first.tensors().keys() == second.tensors().keys()
    for name, array in first.tensors().items():
        assert array.tobytes() == second.tensors()[name].tobytes(), name
    assert (first.seed, first.steps) == (second.seed, second.steps)
    assert first.extra["mutation"] == second.extra["mutation"]
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, other)]
    assert len(logs[0]) == len(logs[1]) == EPOCHS
    for a, b in zip(*logs, strict=True):
        assert [a[key] for key in UNTIMED] == [b[key] for key in UNTIMED]
    assert (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
    # nothing is left of what was being written when the process was killed
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())


@pytest.fixture(autouse=True)
def _images(folder: Path) -> None:
    write_images(Path("images"), STEPS * 10 // 2)


def killed_and_resumed(kills: int, seed: int, train: Callable[..., object], *arguments: str) -> None:
    """train: does what is not killed, with the arguments of `mest train`."""
    Path("recipe.yaml").write_text(RECIPE)
    whole, run = Path("runs/whole"), Path("runs/killed")
    train("recipe.yaml", "--run-dir", str(whole), *arguments)
    rng = np.random.default_rng(seed)
    # not in the last steps: a process that is through cannot be killed
    moments = np.sort(rng.choice(int(0.7 * STEPS * EPOCHS), kills, replace=False))
    begin = ("recipe.yaml", "--run-dir", str(run), *arguments)
    go_on = ("--run-dir", str(run), "--resume")
    for number, steps in enumerate(moments):
        process = start(*(go_on if number else begin))
        kill_at(process, run, int(steps), rng.uniform(0, 0.02))
        assert steps_done(run) >= steps
    train(*go_on)
    assert_equal_ends(whole, run)


def elsewhere(*arguments: str) -> None:
    finish(start(*arguments))


def test_a_kill(mest, folder: Path) -> None:
    killed_and_resumed(1, 1, lambda *given: mest("train", *USUAL, *given), "--backend", "torch")


@pytest.mark.slow
def test_ten_kills(folder: Path) -> None:
    killed_and_resumed(10, 2, elsewhere, "--backend", "torch")


@pytest.mark.slow
def test_a_compiled_run_is_killed(folder: Path) -> None:
    killed_and_resumed(1, 3, elsewhere, "--backend", "compiled")


def test_killed_before_the_first_checkpoint(run, mest, folder: Path) -> None:
    Path("recipe.yaml").write_text(RECIPE)
    left = Path("runs/killed")
    (left / "artifact").mkdir(parents=True)
    (left / "artifact/manifest.json").write_text("{}")
    (left / "recipe.yaml").write_text(RECIPE)
    (left / f".checkpoint.safetensors.{os.getpid()}.0123abcd.part").write_bytes(b"half")
    refused = run("train", "--run-dir", left, "--resume")
    assert refused.exit_code == 2
    assert "holds no checkpoint to resume: start the run without --resume" in refused.stderr
    short = ("--epochs", "1", "--mutate-until", "1")
    Path("recipe.yaml").write_text(RECIPE.partition("de_epoch")[0])
    mest("train", "recipe.yaml", "--run-dir", left, *short, "--backend", "torch", "--threads", "1")
    names = {"checkpoint.safetensors", "log.jsonl", "masks.safetensors", "recipe.yaml", "weights.safetensors"}
    assert {path.name for path in left.iterdir()} == names
