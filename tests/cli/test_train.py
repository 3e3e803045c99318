"""`mest train`: what a run leaves, and that either engine begins as the
other, goes on where the other stopped, and is the same when it is resumed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file

from mest_compiler import models
from mest_compiler.runtime import checkpoint
from mest_compiler.sparsity.schemes import get_scheme

RUN = Path("runs/net")
TINY = (
    "train", "--model", "net.py:make", "--data", "mnist", "--examples", "1000", "--batch", "125", "--run-dir", RUN,
    "--threads", "1",
)  # fmt: skip
BLOCK = ("--scheme", "block", "--sparsity", "0.5")
SOFT = ("--method", "em&s", "--p", "0.1", "--mutate-every", "1", "--mutate-until", "3", "--p-milestones", "2")
EFFICIENT = ("--de-epoch", "3", "--de-remove", "250")
WHOLE = (*TINY, *BLOCK, *SOFT, *EFFICIENT, "--epochs", "4")
"""A run with every kind of state."""
TORCH = ("--backend", "torch")
FOREIGN = ("--model", "net.py:foreign")
"""The same weights, and an operator without a kernel. Steps of it with three quarters of zeros are compiled once."""
LAYER, SHAPE = "3.weight", (16, 8, 3, 3)
CHECKPOINT = RUN / "checkpoint.safetensors"


def records() -> list[dict]:
    return [json.loads(line) for line in (RUN / "log.jsonl").read_text().splitlines()]


def test_a_run_and_what_it_leaves(mest, refused, folder: Path) -> None:
    mask = get_scheme("block").random_mask(SHAPE, 0.75, np.random.default_rng(5))
    save_file({LAYER: mask}, "masks.safetensors")
    arguments = (*TINY, *FOREIGN, "--scheme", "block", "--epochs", "2", "--masks", "masks.safetensors")
    done = mest(*arguments, "--json", "-")
    result = json.loads(done.stdout)
    assert result["epochs"] == len(result["records"]) == 2
    assert result["losses"][0] > result["losses"][1]
    assert result["state_bytes"] == sum(result["state_bytes_details"].values())
    assert (result["backend"], result["device"], result["threads"]) == ("compiled", "cpu", 1)
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
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: 4 operators run by generic kernels") and "sigmoid in 2 " in warning
    # what was made of the files came first, then what each layer gets, then the whole recipe as the folder keeps it
    said, _, printed = done.stderr.partition("# runs")
    files, kept, sparsity, *dense = said.splitlines()
    assert files == f"# masks {folder}/masks.safetensors: taken as they are"
    assert kept == "# masks of the file: 1 of 3 layers are sparse, with 75.00 % zeros"
    assert sparsity.startswith("# sparsity: ") and sparsity.endswith("75.00% in 1 of 3 layers")
    assert [line.split()[:2] for line in dense] == [["#", "dense:"]] * 2
    assert result["masks"]["from"] == "masks"
    assert (result["masks"]["sparsity"], result["masks"]["layers"], result["weights"]) == (0.75, 1, None)
    printed, _, _ = f"# runs{printed}".partition("\n\n")
    assert yaml.safe_load(printed) == yaml.safe_load((RUN / "recipe.yaml").read_text()) == result["recipe"]

    assert "already holds a run" in refused(*arguments)
    for name, value in (("masks", "masks.safetensors"), ("weights", "net.py"), ("profile-ratios", "weights")):
        sentence = refused(*TINY, "--resume", f"--{name}", value)
        assert f"goes on with its own weights and its own masks: leave out --{name}." in sentence
    # finished, so there is nothing left to do; its recipe is the one beside the checkpoint
    again = json.loads(mest("train", "--run-dir", RUN, "--resume", "--json", "-").stdout)
    assert again["records"] == result["records"]
    assert "was made with momentum 0.9" in refused("train", "--run-dir", RUN, "--resume", "--momentum", "0.5")
    assert "was compiled for cpu, not for opencl" in refused(
        "train", "--run-dir", RUN, "--resume", "--device", "opencl"
    )
    assert "it can have more epochs and not 1" in refused("train", "--run-dir", RUN, "--resume", "--epochs", "1")
    assert "2 epochs: the cosine" not in mest("train", "--run-dir", RUN, "--resume", "--epochs", "2").stderr
    assert "3 epochs in place of 2: the cosine" in mest("train", "--run-dir", RUN, "--resume", "--epochs", "3").stderr
    assert len(records()) == 3


def test_what_torch_leaves(mest, folder: Path) -> None:
    result = json.loads(mest(*WHOLE, *TORCH, "--json", "-").stdout)
    assert (result["backend"], result["device"], result["compile_seconds"]) == ("torch", "cpu", None)
    names = {"checkpoint.safetensors", "log.jsonl", "masks.safetensors", "recipe.yaml", "weights.safetensors"}
    assert {path.name for path in RUN.iterdir()} == names
    mask = load_file(RUN / "masks.safetensors")[LAYER]
    assert mask.shape == SHAPE
    assert mask.mean() == 0.5
    assert not load_file(RUN / "weights.safetensors")[LAYER][~mask].any()
    found = records()
    assert [record["kept"] > 576 for record in found] == [True, True, False, False]  # em&s keeps more until the end
    assert [record["examples"] for record in found] == [1000, 1000, 1000, 750]
    assert json.loads(json.dumps(found)) == result["records"]


PROFILE = """
scheme: block
sparsity: 0.6
kinds: {linear: unstructured}
"""


@pytest.mark.parametrize(
    "way",
    ["masks-from", "magnitude", *(pytest.param(w, marks=pytest.mark.slow) for w in ("drawn", "masks", "profile"))],
)
def test_both_engines_start_the_same(stopped, folder: Path, way: str) -> None:
    mask = get_scheme("block").random_mask(SHAPE, 0.75, np.random.default_rng(5))
    if way == "masks":
        save_file({LAYER: mask}, "masks.safetensors")
    torch.manual_seed(3)
    model = models.build("net.py:make", classes=10, in_channels=1)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if way == "masks-from":
        weights[LAYER] = weights[LAYER] * mask
    save_file(weights, "weights.safetensors")
    Path("profile.yaml").write_text(PROFILE)
    chosen = {
        "drawn": (*BLOCK, *SOFT),
        "masks": ("--scheme", "block", "--masks", "masks.safetensors"),
        "masks-from": (*FOREIGN, "--scheme", "block", "--masks-from", "weights.safetensors"),
        "magnitude": (*FOREIGN, "--scheme", "block", "--sparsity", "0.75", "--weights", "weights.safetensors"),
        "profile": ("--profile", "profile.yaml"),
    }[way]
    starts = []
    for kind in ("compiled", "torch"):
        stopped("epoch_started", 1, *TINY, *chosen, "--epochs", "4", "--backend", kind)
        starts.append(checkpoint.read(CHECKPOINT, None))
        shutil.rmtree(RUN)
    first, second = (start.tensors() for start in starts)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        assert np.array_equal(array, second[name]), name
    assert starts[0].extra == starts[1].extra
    assert starts[0].schemes == starts[1].schemes
    if way.startswith("masks"):
        kept = np.flatnonzero(get_scheme("block").mask_to_units(mask))
        assert np.array_equal(starts[0].units[LAYER], kept)
    if way == "magnitude":
        sums = np.abs(weights[LAYER]).reshape(4, 4, -1).sum(axis=1).reshape(-1)  # of 4 filters at a place
        kept = np.sort(np.argsort(sums)[-len(sums) // 4 :])
        assert np.array_equal(starts[0].units[LAYER], kept)
        for name in ("0.weight", "1.running_mean", "8.bias"):
            assert np.array_equal(starts[0].state[name], weights[name])


@pytest.mark.slow  # test_train_arrays has a quicker one
@pytest.mark.parametrize("kinds", [("torch", "compiled"), ("compiled", "torch")], ids="-".join)
def test_either_engine_goes_on_with_the_others_run(mest, stopped, folder: Path, kinds: tuple[str, str]) -> None:
    mest(*WHOLE, "--backend", kinds[0])
    whole = records()
    capacity = None
    if kinds[0] == "compiled":
        capacity = json.loads((RUN / "artifact/manifest.json").read_text())["layers"][LAYER]["capacity"]
    shutil.rmtree(RUN)
    stopped("epoch_finished", 2, *WHOLE, "--backend", kinds[0])
    mest("train", "--run-dir", RUN, "--resume", "--threads", "1", "--backend", kinds[1])
    mixed = records()
    # the same epochs of the same training: float32 sums in another order are all that differs
    for one, other in zip(whole, mixed, strict=True):
        assert (one["kept"], one["removed"], one["grown"]) == (other["kept"], other["removed"], other["grown"])
        assert one["examples"] == other["examples"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-2)
    if kinds[1] == "compiled":
        manifest = json.loads((RUN / "artifact/manifest.json").read_text())
        capacity = manifest["layers"][LAYER]["capacity"]
        assert manifest["optimizer"]["momentum"] == 0.9
    # em&s has room for s - p, and no more
    assert capacity == round(0.6 * get_scheme("block").units(SHAPE))


def test_the_backend_of_a_run_is_kept_unless_said(mest, stopped, folder: Path) -> None:
    stopped("epoch_finished", 1, *WHOLE, *TORCH)
    result = json.loads(mest("train", "--run-dir", RUN, "--resume", "--json", "-").stdout)
    assert result["backend"] == "torch"
    assert not (RUN / "artifact").exists()


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_resuming_otherwise_changes_nothing(stopped, refused, folder: Path, kind: str) -> None:
    stopped("epoch_finished", 1, *WHOLE, *TORCH)
    before = CHECKPOINT.read_bytes()
    for given, sentence in (
        (("--momentum", "0.5"), "another model, optimiser or sparsity scheme"),
        (("--lr", "0.5"), "was made with lr 0.1"),
        (("--model", "net.py:unsupported"), "is of another model"),
    ):
        assert sentence in refused("train", "--run-dir", RUN, "--resume", "--backend", kind, *given)
    assert not (RUN / "artifact").exists()
    assert CHECKPOINT.read_bytes() == before


def test_a_checkpoint_of_another_model(mest, refused, folder: Path) -> None:
    mest(*TINY, *TORCH, "--epochs", "1")
    wider = Path("net.py").read_text().replace("16", "24")
    Path("net.py").write_text(wider)
    for kind in ("torch", "compiled"):
        assert "is of another model" in refused("train", "--run-dir", RUN, "--resume", "--backend", kind)
    assert not (RUN / "artifact").exists()


def test_torch_is_bit_equal_after_an_interruption(mest, stopped, folder: Path) -> None:
    whole = [part if part != RUN else "runs/whole" for part in (*WHOLE, *TORCH)]
    mest(*whole)
    stopped("step_finished", 13, *WHOLE, *TORCH, "--checkpoint-steps", "3")
    mest("train", "--run-dir", RUN, "--resume", "--threads", "1")
    first, second = (checkpoint.read(Path(run, "checkpoint.safetensors"), None) for run in ("runs/whole", RUN))
    for name, array in first.tensors().items():
        assert array.tobytes() == second.tensors()[name].tobytes(), name
    assert Path("runs/whole/weights.safetensors").read_bytes() == (RUN / "weights.safetensors").read_bytes()


@pytest.mark.slow
def test_compiled_is_bit_equal_after_an_interruption(
    mest, stopped, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEST_CACHE", str(folder / "cache"))  # so that both runs get the same kernels
    whole = [part if part != RUN else "runs/whole" for part in WHOLE]
    mest(*whole)
    stopped("step_finished", 13, *WHOLE, "--checkpoint-steps", "3")
    mest("train", "--run-dir", RUN, "--resume")
    first, second = (load_file(Path(run, "weights.safetensors")) for run in ("runs/whole", RUN))
    assert first.keys() == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.mark.slow
def test_torch_goes_on_with_what_auto_chose(mest, stopped, folder: Path) -> None:
    auto = ("--scheme", "auto", "--sparsity", "0.8", *SOFT, "--epochs", "4")
    stopped("epoch_finished", 1, *TINY, *auto)
    scheme = json.loads((RUN / "artifact/manifest.json").read_text())["layers"][LAYER]["scheme"]
    mest("train", "--run-dir", RUN, "--resume", *TORCH)
    assert checkpoint.read(CHECKPOINT, None).schemes == {LAYER: scheme}
    assert len(records()) == 4
    # and without the step: what was chosen stands in the checkpoint
    shutil.rmtree(RUN / "artifact")
    mest("train", "--run-dir", RUN, "--resume", "--backend", "compiled")
    assert json.loads((RUN / "artifact/manifest.json").read_text())["layers"][LAYER]["scheme"] == scheme


@pytest.mark.slow
def test_two_processes(folder: Path) -> None:
    together = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "mest_compiler.cli.main"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*together, *map(str, (*WHOLE, *TORCH)), "--json", "facts.json"],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("model: ") == 1  # the recipe, once
    assert done.stderr.count("test accuracy") == 1
    facts = json.loads(Path("facts.json").read_text())
    assert facts["records"] == records()
    assert [record["examples"] for record in facts["records"]] == [1000, 1000, 1000, 750]
    refused = subprocess.run(
        [*together, *map(str, (*TINY, *BLOCK)), "--run-dir", "runs/other", "--epochs", "1"],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert "The compiled step trains in one process" in refused.stderr
    assert not Path("runs/other").exists()


def test_several_processes_cannot_share_a_compiled_step(refused, folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "add --backend torch" in refused(*TINY, *BLOCK, "--epochs", "1")


def ragged_masks() -> None:
    ragged = np.ones(SHAPE, bool)
    ragged[0] = False
    save_file({LAYER: ragged}, "ragged.safetensors")
    save_file({"conv1.weight": np.ones((4, 3, 3, 3), bool)}, "other.safetensors")


@pytest.mark.parametrize("kind", ["compiled", "torch"])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "mnst"], "unknown data set 'mnst'"),
        (["--data", "cifar10"], "say where its unpacked archive is"),
        (["--data", "cifar10", "--data-root", "missing"], "'missing' does not exist"),
        (["--data", "cifar10", "--data-root", "empty"], "say where the unpacked archive of cifar10 is"),
        (["--data", "cifar10", "--data-root", "truncated"], "data_batch_1.bin"),
        (["--epochs", "0"], "epochs of a recipe is at least 1"),
        (["--masks", "other.safetensors"], "is of another model"),
        (["--masks", "ragged.safetensors"], "is no mask of scheme 'block'"),
        (["--milestones", "a"], "'a' is no list of epochs"),
        (["--p-milestones", "5,"], "'5,' is no list of epochs"),
        (["--examples", "4000", "--batch", "5000"], "fewer than one batch of 5000"),
        (["--batch", "250", "--examples", "200"], "fewer than one batch of 250"),
        (["--run-dir", "net.py/run"], "net.py/run"),
        (["--resume"], "holds no run to resume"),
        (["--method", "emm"], "There is no method 'emm': choose static, vanilla, em, em&s, set"),
        (["--method", "em"], "needs mutate_until"),
        (["--method", "em", "--mutate-until", "2"], "mutate_until of a recipe is at least 0 and at most epochs (1)"),
        (
            ["--method", "em", "--mutate-every", "1", "--mutate-until", "9", "--epochs", "9", "--sparsity", "0.98"],
            "p = 0.05 is not smaller than the fraction of 0.02083 that layer '3.weight' keeps: lower p",
        ),
        (
            ["--method", "em&s", "--mutate-until", "9", "--epochs", "9", "--sparsity", "0.03"],
            "to a sparsity of -0.0",
        ),
        (["--de-epoch", "2", "--de-remove", "900", "--epochs", "4"], "leave 100 of 1000 training examples, fewer"),
        (["--de-threshold", "0"], "data efficiency of a recipe is de_epoch with de_threshold or with de_remove"),
        (["--device", "tpu"], "'tpu'"),
    ],
)  # fmt: skip
def test_bad_input_leaves_no_folder(refused, folder: Path, kind: str, arguments: list[str], sentence: str) -> None:
    ragged_masks()
    Path("empty").mkdir()
    Path("truncated").mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (Path("truncated") / f"{name}.bin").write_bytes(bytes(100))
    assert sentence in refused(*TINY, *BLOCK, "--epochs", "1", "--backend", kind, *arguments)
    assert not Path("runs").exists()


def test_what_only_one_engine_refuses(refused, folder: Path) -> None:
    small = (*TINY, "--epochs", "1")
    assert "measures compiled kernels" in refused(*small, *TORCH, "--scheme", "auto", "--sparsity", "0.9")
    assert "add --backend torch" in refused(*small, *BLOCK, "--device", "cuda")
    assert "There is no backend 'tvm': use compiled or torch." in refused(*small, *BLOCK, "--backend", "tvm")
    assert not Path("runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_gpu_where_there_is_none(refused, folder: Path, device: str) -> None:
    assert "no CUDA GPU" in refused(*TINY, *BLOCK, "--epochs", "1", *TORCH, "--device", device)
    assert not Path("runs").exists()


def test_a_key_that_no_recipe_has(refused, folder: Path) -> None:
    Path("mine.yaml").write_text("model: net.py:make\ndata: mnist\nepochs: 1\nsparsty: 0.5\n")
    assert "unknown key 'sparsty': did you mean 'sparsity'?" in refused("train", "mine.yaml", "--run-dir", RUN)
    assert "unknown recipe 'mnist-emm' (did you mean 'mnist-em'?)" in refused("train", "mnist-emm", "--run-dir", RUN)
    assert not Path("runs").exists()
