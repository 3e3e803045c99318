"""`mest train` on numbers of one's own: two inputs, a frozen branch, AdamW and MSE, on every device and in PyTorch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import load_file

from mest_compiler import models

NET = """
import torch
from torch import nn


class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.branch = nn.Sequential(nn.Linear(5, 8), nn.ReLU()).requires_grad_(False)
        self.last = nn.Linear(16, 4)

    def forward(self, image, more):
        planes = torch.relu(self.body(torch.relu(self.norm(self.stem(image)))))
        return self.last(torch.cat([planes.mean((2, 3)), self.branch(more)], 1))


def words(num_classes):
    return nn.Sequential(nn.Embedding(9, 6), nn.Flatten(), nn.Linear(12, num_classes))
"""
BATCH = 8
START = (
    "train", "--model", "two.py:TwoBranches", "--data", "arrays", "--data-root", "numbers.npz", "--loss", "mse",
    "--optimizer", "adamw", "--lr", "0.01", "--batch", BATCH, "--threads", "1",
)  # fmt: skip
MUTATING = ("--scheme", "block", "--sparsity", "0.5", "--method", "em&s", "--p", "0.1", "--mutate-every", "1")
WHOLE = (*START, *MUTATING, "--mutate-until", "2", "--epochs", "3", "--checkpoint-steps", "1")
TORCH = ("--backend", "torch")
KINDS = {"cpu": ("--device", "cpu"), "opencl": ("--device", "opencl"), "torch": TORCH}
FROZEN = ("branch.0.weight", "branch.0.bias")


def numbers() -> dict[str, np.ndarray]:
    """36 training and 10 test examples."""
    rng = np.random.default_rng(0)
    stored = {}
    for part, n in (("train", 36), ("test", 10)):
        image, more = rng.standard_normal((n, 3, 6, 6)).astype(np.float32), rng.standard_normal((n, 5))
        stored |= {f"{part}/image": image, f"{part}/more": more}
        stored[f"{part}/y"] = (more[:, :4] + image.mean((2, 3))[:, :1]).astype(np.float32)
    return stored


def write(**changes: np.ndarray | None) -> None:
    """numbers.npz and two.py in the working folder; changes: arrays by key, None: that one is left out."""
    Path("two.py").write_text(NET)
    stored = numbers() | changes
    np.savez("numbers.npz", **{key: array for key, array in stored.items() if array is not None})


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with numbers.npz, two.py and a place for what the tests of a module share: whole runs, kernels."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("arrays")
        patch.chdir(folder)
        patch.setenv("MEST_CACHE", str(folder / "cache"))  # so that all runs get the same kernels
        write()
        yield folder


def whole(mest, kind: str) -> Path:
    """An uninterrupted run of this kind, trained once."""
    run = Path("runs", kind)
    if not run.exists():
        said = mest(*WHOLE, *KINDS[kind], "--run-dir", run).stderr
        assert f"{run}: test error " in said and "# dense: branch.0.weight (their weights are frozen)" in said
        assert "accuracy" not in said and "images" not in said
    return run


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k == "cpu" else ()) for k in KINDS])
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(mest, stopped, trained: Path, kind: str) -> None:
    run, cut = whole(mest, kind), Path("runs", f"{kind} cut")
    stopped("step_finished", 6, *WHOLE, *KINDS[kind], "--run-dir", cut)  # in the second epoch, after a mutation
    mest("train", "--run-dir", cut, "--resume", "--threads", "1")
    ours, theirs = (load_file(Path(one, "weights.safetensors")) for one in (run, cut))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)
    for one, other in zip(records(run), records(cut), strict=True):
        assert all(one[key] == other[key] for key in ("loss", "train_error", "test_error", "kept", "removed", "grown"))


def test_every_device_trains_as_pytorch(mest, trained: Path) -> None:
    first = models.build("two.py:TwoBranches", seed=0).state_dict()
    wanted, state = records(whole(mest, "torch")), load_file("runs/torch/weights.safetensors")
    assert [record["grown"] > 0 for record in wanted] == [True, False, False]
    assert wanted[-1]["loss"] < wanted[0]["loss"]
    for kind in ("cpu", "opencl"):
        run = whole(mest, kind)
        for one, other in zip(records(run), wanted, strict=True):
            assert one.keys() == other.keys() and "accuracy" not in str(one.keys())
            assert all(one[key] == other[key] for key in ("kept", "removed", "grown", "examples", "lr"))
            assert all(one[key] == pytest.approx(other[key], rel=1e-3) for key in ("loss", "train_error", "test_error"))
        for name, array in load_file(run / "weights.safetensors").items():
            np.testing.assert_allclose(array, state[name], atol=1e-3)
            if name in FROZEN:
                np.testing.assert_array_equal(array, first[name].numpy())


@pytest.mark.parametrize("kinds", [("torch", "cpu"), ("opencl", "torch")], ids="-".join)
def test_the_other_engine_goes_on(mest, stopped, trained: Path, kinds: tuple[str, str]) -> None:
    run = Path("runs", "-".join(kinds))
    stopped("epoch_finished", 1, *WHOLE, *KINDS[kinds[0]], "--run-dir", run)
    engine = "torch" if kinds[1] == "torch" else "compiled"
    mest("train", "--run-dir", run, "--resume", "--backend", engine)
    for one, other in zip(records(run), records(whole(mest, "torch")), strict=True):
        assert (one["kept"], one["grown"]) == (other["kept"], other["grown"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_parts_of_a_batch(mest, trained: Path) -> None:
    said = mest(
        *START,
        "--scheme", "unstructured", "--sparsity", "0.5", "--epochs", "1", "--batch", "32", "--memory-limit", "450kB",
    ).stderr  # fmt: skip
    assert "a batch is trained as " in said and "runs/train: test error" in said


def test_what_a_run_leaves_for_others(mest, refused, trained: Path) -> None:
    run = whole(mest, "torch")
    (said,) = json.loads(mest("report", "run", run, "--output", "run.png", "--json", "-").stdout)["runs"]
    assert said["test_error"] == records(run)[-1]["test_error"] >= said["best_test_error"]
    assert "This report shows images with their labels" in refused("report", "forgetting", run)
    of_errors = ("report", "evidence", "--recipe", run / "recipe.yaml", "--output", "evidence")
    assert "This report is about right answers, and recipe runs/torch/recipe.yaml has loss mse" in refused(*of_errors)
    facts = json.loads(mest("export", run, "--onnx", "n.onnx", "--torch", "n.safetensors", "--json", "-").stdout)
    assert facts["inputs"] == {"image": [[3, 6, 6], "float32"], "more": [[5], "float32"]}
    model = models.build("two.py:TwoBranches").eval()
    model.load_state_dict(safetensors.torch.load_file("n.safetensors"))
    inputs = {name: numbers()[f"test/{name}"].astype(np.float32) for name in ("image", "more")}
    (found,) = ReferenceEvaluator(onnx.load("n.onnx")).run(["output"], inputs)
    with torch.inference_mode():
        wanted = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    assert float(((found - numbers()["test/y"]) ** 2).mean()) == pytest.approx(said["test_error"], rel=1e-4)


def test_other_numbers_than_the_run_began_with(mest, refused, folder: Path) -> None:
    write()
    mest(*START, *TORCH, "--epochs", "1")
    resume = ("train", "--run-dir", "runs/train", "--resume", "--epochs", "2")
    changed = numbers()["train/image"] + 1
    write(**{"train/image": changed})
    assert "made with other data (of 1 files 1 changed (numbers.npz))" in refused(*resume)
    shapes = {f"{part}/image": numbers()[f"{part}/image"][..., :5] for part in ("train", "test")}
    write(**shapes)
    sentence = refused(*resume, "--accept-changed-data")
    assert (
        "is of a network for image float32 [3, 6, 6], more float32 [5], classes 4, and its data are image" in sentence
    )
    write(**{key: array[:30] for key, array in numbers().items() if key.startswith("train")})
    assert "of 36 training examples where there are 30 now" in refused(*resume, "--accept-changed-data")
    write(**{"train/image": changed})
    assert "going on with changed data" in mest(*resume, "--accept-changed-data").stderr
    shutil.move("numbers.npz", "elsewhere.npz")
    assert "numbers.npz' does not exist" in refused(*resume, "--data-root", "numbers.npz")
    shutil.copy("elsewhere.npz", "numbers.npz")
    assert len(records(Path("runs/train"))) == 2


def test_words_with_labels(mest, refused, folder: Path) -> None:
    """Whole numbers as the input, its name not that of the model's; what labels alone can: accuracy, forgetting."""
    Path("two.py").write_text(NET)
    rng = np.random.default_rng(0)
    stored = {}
    for part, n in (("train", 60), ("test", 20)):
        words = rng.integers(0, 9, (n, 2))
        stored |= {f"{part}/words": words, f"{part}/y": (words[:, 0] // 3).astype(np.int8)}
    np.savez("words.npz", **stored)
    start = ("train", "--model", "two.py:words", "--data", "arrays", "--data-root", "words.npz", "--batch", "10")
    efficient = ("--de-epoch", "18", "--de-remove", "20", "--epochs", "20", "--examples", "50")
    done = json.loads(mest(*start, *efficient, *TORCH, "--json", "-").stdout)
    assert done["test_accuracy"] > 0.8 and [one["examples"] for one in done["records"]] == [50] * 18 + [30] * 2
    assert "This report shows images with their labels, and runs/train was trained on arrays" in refused(
        "report", "forgetting", "runs/train"
    )
    low = stored["train/y"].copy()
    low[3] = -1
    for label, sentence in ((low, "do not fit: Labels run from -1 to 2"), (low - 99, "hold labels below 0: leave out")):
        np.savez("low.npz", **{**stored, "train/y": np.where(low < 0, label, low).astype(np.int64)})
        assert sentence in refused(*start, "--data-root", "low.npz", "--epochs", "1", *TORCH, "--run-dir", "runs/low")


WRONG = {
    "a folder": ({}, ("--data-root", "."), "cannot be read (Is a directory)"),
    "no file": ({}, ("--data-root", "none.npz"), "'none.npz' does not exist"),
    "NaN": ({"test/more": np.full((10, 5), np.nan)}, (), "numbers in test/more that are NaN, infinite or"),
    "an input that is missing": (
        {"train/more": None, "test/more": None}, (),
        "The model's forward takes image, more, and data set arrays has the inputs image (targets: y): call them alike",
    ),
    "an input more": (
        {"train/less": np.ones((36, 2)), "test/less": np.ones((10, 2))}, (), "has the inputs image, more, less (target",
    ),
    "an input of another shape": (
        {"train/more": np.ones((36, 6)), "test/more": np.ones((10, 6))}, (), "give it data that it is made for",
    ),
    "a target of another shape": (
        {"train/y": np.ones((36, 3)), "test/y": np.ones((10, 3))}, (),
        "takes y float32 [batch, 4] of this model's outputs, and data set arrays has y float32 [batch, 3]",
    ),
    "labels": ({"train/y": np.arange(36), "test/y": np.arange(10)}, (), "and data set arrays has y int64 [batch]"),
    "numbers as labels": ({}, ("--loss", "cross_entropy"), "takes y int64 [batch] of this model's outputs"),
    "beyond probabilities": ({}, ("--loss", "bce_with_logits"), "training targets of data set arrays do not fit"),
    "fewer than a batch": ({}, ("--batch", "40"), "has 36 examples, fewer than one batch of 40"),
    "too few asked": ({}, ("--examples", "40"), "has 36 training examples, 40 were asked for"),
    "noise": ({}, ("--noise", "0.5"), "--noise changes nothing here, since it needs a data set of images"),
    "size": ({}, ("--size", "8"), "--size changes nothing here, since it needs a data set of images"),
    "augment": ({}, ("--augment",), "--augment changes nothing here, since it needs a data set of images"),
    "forgetting": ({}, ("--epochs", "3", "--de-epoch", "1", "--de-remove", "4"), "counts right and wrong labels"),
    "a mask of what is frozen": (
        {}, ("--profile", "frozen.yaml"), "branch.0.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence_before_there_is_a_folder(refused, folder: Path, case: str) -> None:
    changes, arguments, sentence = WRONG[case]
    write(**changes)
    Path("frozen.yaml").write_text("{scheme: block, sparsity: 0.5, layers: {branch.0.weight: {sparsity: 0.5}}}")
    assert sentence in refused(*START, "--epochs", "1", *arguments)
    assert not Path("runs").exists()


def test_accuracies_and_errors_share_no_picture(mest, refused, folder: Path) -> None:
    write()
    mest(*START, *TORCH, "--epochs", "1", "--run-dir", "runs/error")
    shares = {f"{part}/y": (numbers()[f"{part}/y"] > 0).astype(np.float32) for part in ("train", "test")}
    write(**shares)
    said = mest(*START, *TORCH, "--epochs", "1", "--run-dir", "runs/share", "--loss", "bce_with_logits").stderr
    assert "runs/share: test accuracy" in said
    sentence = refused("report", "run", "runs/error", "runs/share", "--output", "both.png")
    assert (
        "runs/error has a test error and runs/share a test accuracy, which share no axis: draw them apart" in sentence
    )


@pytest.mark.slow
def test_two_processes(mest, folder: Path) -> None:
    write()
    together = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "mest_compiler.cli.main"]
    done = subprocess.run(
        [*together, *map(str, (*WHOLE, *TORCH)), "--run-dir", "runs/two"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    mest(*WHOLE, *TORCH, "--run-dir", "runs/one")
    for one, other in zip(records(Path("runs/two")), records(Path("runs/one")), strict=True):
        assert (one["kept"], one["removed"], one["grown"]) == (other["kept"], other["removed"], other["grown"])
        assert all(one[key] == pytest.approx(other[key], rel=1e-4) for key in ("loss", "train_error", "test_error"))
