"""`mest train --resume` with something else than the run had: repaired or copied images, more epochs, other options."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mest_compiler.runtime import checkpoint
from mest_compiler.training.recipe import Recipe

from .tiny_runs import write_images

RUN = Path("runs/net")
CHECKPOINT = RUN / "checkpoint.safetensors"
RESUME = ("train", "--run-dir", RUN, "--resume")
EPOCHS = 2
COSINE, STEP = ("--lr", "0.1"), ("--schedule", "step", "--milestones", "1", "--lr", "0.1")


@pytest.fixture
def trained(mest, folder: Path):
    """Train a run of two epochs on a folder of images, in PyTorch."""

    def train(*options: object) -> None:
        if not Path("images").exists():
            write_images(Path("images"))
        mest(
            "train", "--model", "net.py:make", "--data", "folder", "--data-root", "images", "--size", "16",
            "--batch", "7", "--epochs", EPOCHS, "--backend", "torch", "--threads", "1", "--run-dir", RUN, *options,
        )  # fmt: skip

    return train


def records() -> list[dict]:
    return [json.loads(line) for line in (RUN / "log.jsonl").read_text().splitlines()]


def repair(path: Path) -> None:
    """Other pixels in as many bytes, at another time."""
    old = path.stat()
    Image.fromarray(np.full((16, 16, 3), 128, np.uint8)).save(path)
    assert path.stat().st_size == old.st_size
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 10**9))


def test_a_repaired_image_is_named_and_ends_no_run(mest, refused, trained) -> None:
    trained()
    before = CHECKPOINT.read_bytes()
    last = Path("images/train/bee/34.bmp")  # beyond the first 64
    repair(last)
    sentence = refused(*RESUME, "--epochs", "3")
    assert "was made with other data (of 74 files 1 changed (train/bee/34.bmp))" in sentence
    assert "go on with the changed one by --accept-changed-data" in sentence
    assert CHECKPOINT.read_bytes() == before
    done = mest(*RESUME, "--epochs", "3", "--accept-changed-data")
    assert "going on with changed data (of 74 files 1 changed (train/bee/34.bmp))" in done.stderr
    assert len(records()) == 3
    assert "changed" not in mest(*RESUME, "--epochs", "4").stderr  # they are this run's now
    mest("report", "forgetting", RUN)


def test_accepted_data_are_the_runs_at_once(mest, trained) -> None:
    trained()
    repair(Path("images/val/ant/1.bmp"))
    assert "1 changed (val/ant/1.bmp)" in mest(*RESUME, "--accept-changed-data").stderr
    assert "changed" not in mest(*RESUME).stderr


def test_a_copy_with_other_times_is_the_same_data(mest, trained) -> None:
    trained()
    shutil.copytree("images", "copy", copy_function=shutil.copyfile)
    for path in Path("copy").rglob("*.bmp"):
        os.utime(path, (1, 1))
    done = mest(*RESUME, "--epochs", "3", "--data-root", "copy")
    assert "changed" not in done.stderr
    assert "taken for a copy" not in done.stderr  # it was read
    assert len(records()) == 3


def test_images_cannot_become_more_or_fewer(refused, trained) -> None:
    trained()
    Path("images/train/ant/3.bmp").unlink()
    for accepted in ((), ("--accept-changed-data",)):
        sentence = refused(*RESUME, "--epochs", "3", *accepted)
        assert "(of 73 files 1 missing (train/ant/3.bmp)), of 70 training examples where there are 69 now" in sentence
        assert "--accept-changed-data" not in sentence


def test_a_checkpoint_that_knows_no_files_goes_on_as_before(mest, refused, trained) -> None:
    """As earlier versions wrote it: the first images are known by their sizes, and nothing of the others."""
    trained()
    from mest_compiler import models
    from mest_compiler.training.torch_engine import TorchEngine

    engine = TorchEngine(models.build("net.py:make", classes=2), {}, {})
    extra, arrays = engine.load(CHECKPOINT)
    del extra["digest"]
    engine.save(CHECKPOINT, extra, {name: array for name, array in arrays.items() if not name.startswith("file_")})
    path = Path("images/train/ant/0.bmp")
    image = path.read_bytes()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(path)
    assert "made with other data (inputs or targets): resume with the same" in refused(*RESUME, "--epochs", "3")
    path.write_bytes(image)
    mest(*RESUME, "--epochs", "3")
    assert "file_names" in checkpoint.read(CHECKPOINT, None).arrays


def test_nothing_is_accepted_where_a_run_begins(refused, folder: Path) -> None:
    arguments = ("train", "demo", "--run-dir", RUN, "--accept-changed-data")
    assert "A run that begins has no data that could have changed" in refused(*arguments)


def rate(epoch: int, epochs: int) -> float:
    """Of the last of ten steps in an epoch, counted from 1."""
    return 0.05 * (1 + math.cos(math.pi * (10 * epoch - 1) / (10 * epochs - 1)))


def test_more_epochs_stretch_the_cosine(mest, refused, trained) -> None:
    trained(*COSINE)
    said = mest(*RESUME, "--epochs", "5").stderr
    first = 0.05 * (1 + math.cos(math.pi * 20 / 49))
    assert (
        f"5 epochs in place of 2: the cosine is stretched over all 5, so the learning rate goes from 0 to {first:.3g}"
        in said
    )
    rates = [record["lr"] for record in records()]
    assert rates == pytest.approx([rate(1, 2), rate(2, 2), *(rate(epoch, 5) for epoch in (3, 4, 5))])
    assert yaml.safe_load((RUN / "recipe.yaml").read_text())["epochs"] == 5
    # and the recipe beside the checkpoint is that of the longer run
    assert "all 5 epochs are done: more of them go on, with --epochs" in mest(*RESUME).stderr
    for fewer in (4, 1):
        sentence = refused(*RESUME, "--epochs", fewer)
        assert (
            f"is of a run of 5 epochs, of which 5 are done, .*: it can have more epochs and not {fewer}"[:30]
            in sentence
        )
        assert sentence.endswith(f"it can have more epochs and not {fewer}")


def test_more_epochs_go_on_with_the_last_step(mest, trained) -> None:
    trained(*STEP)
    said = mest(*RESUME, "--epochs", "4").stderr
    assert "4 epochs in place of 2: the milestones of the learning rate stay, which is 0.01 next" in said
    assert [record["lr"] for record in records()] == pytest.approx([0.1, 0.01, 0.01, 0.01])


def test_more_epochs_leave_mutation_where_it_ends(mest, trained) -> None:
    trained(
        "--scheme", "unstructured", "--sparsity", "0.5", "--method", "em", "--p", "0.1", "--mutate-every", "1",
        "--mutate-until", "2",
    )  # fmt: skip
    assert "; mutation stays until epoch 2" in mest(*RESUME, "--epochs", "4").stderr
    assert [record["grown"] > 0 for record in records()] == [True, False, False, False]


OTHERWISE = {
    "examples": "40", "augment": "--no-augment", "width": "2", "batch": "14", "lr": "0.2", "end_lr": "0.01",
    "warmup_epochs": "1", "schedule": "step", "decay": "0.5", "momentum": "0.5", "nesterov": "--nesterov",
    "optimizer": "adamw", "betas": "0.8,0.9", "eps": "1e-6", "loss": "mse",
    "weight_decay": "0.1", "label_smoothing": "0.1", "scheme": "block", "sparsity": "0.5", "method": "em", "p": "0.2",
    "mutate_every": "3", "mutate_until": "1", "p_decay": "0.3", "p_milestones": "1", "importance_lambda": "0.5",
    "settings": "zeta=0.5",
    "seed": "1", "size": "24", "data": "mnist", "noise": "0.5", "milestones": "1", "de_epoch": "1", "de_threshold": "1",
    "de_remove": "1", "profile": "profile.yaml", "model": "net.py:other",
    "weights": "net.py", "weights_key": "ema", "masks": "net.py", "masks_from": "net.py", "profile_ratios": "kernels",
}  # fmt: skip
"""Every field of a recipe that may not be another one, with another value."""


def test_every_other_option_that_contradicts_the_checkpoint_is_refused(refused, trained) -> None:
    trained("--seed", "0")
    Path("profile.yaml").write_text("scheme: block\nsparsity: 0.5\n")
    with Path("net.py").open("a") as net:
        net.write("\n\ndef other(classes=10, in_channels=3):\n    return make(classes, in_channels)\n")
    before = {path.name: path.read_bytes() for path in RUN.iterdir()}
    assert {*OTHERWISE, "data_root", "epochs"} == set(Recipe.__dataclass_fields__)
    for name, value in OTHERWISE.items():
        given = (value,) if value.startswith("--") else (f"--{name.replace('_', '-')}", value)
        refused(*RESUME, *given)
        assert {path.name: path.read_bytes() for path in RUN.iterdir()} == before, name
