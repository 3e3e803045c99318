"""`mest compile`: what it writes and says, and that bad input leaves nothing behind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mest_compiler import models
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.sparsity.schemes import get_scheme

MODEL = "net.py:make"
SMALL = ("--plane", "8x8", "--batch", "8", "--threads", "1")
BLOCK = ("--scheme", "block", "--sparsity", "0.5")
LAYER, SHAPE = "3.weight", (16, 8, 3, 3)


@pytest.fixture
def mask() -> np.ndarray:
    return get_scheme("block").random_mask(SHAPE, 0.75, np.random.default_rng(5))


def test_artifact_and_result(mest, folder: Path) -> None:
    done = mest("compile", MODEL, *SMALL, *BLOCK, "--output", "runs/step", "--json", "-")
    result = json.loads(done.stdout)
    assert result["artifact"] == "runs/step"
    assert result["seconds"] > 0
    assert result["peak_rss_mb"] > 50
    dense, sparse = result["layers"]
    assert (dense["scheme"], dense["sparsity"]) == ("dense", 0.0)
    assert (sparse["name"], sparse["scheme"], sparse["sparsity"]) == (LAYER, "block", 0.5)
    assert set(sparse["kernels"]) == {"forward", "backward_data", "backward_weight"}
    assert LAYER in done.stderr
    loaded = Artifact.load("runs/step")
    assert loaded.manifest["model"] == MODEL
    assert [path.name for path in Path("runs").iterdir()] == ["step"]
    assert result["fallbacks"] == {"share": 0.0, "operators": []}
    assert "generic kernels" not in done.stderr


@pytest.mark.parametrize("verbose", [pytest.param((), marks=pytest.mark.slow), ("-v",)], ids=["", "verbose"])
def test_operators_without_kernels_are_said(mest, folder: Path, verbose: tuple[str, ...]) -> None:
    sizes = ("--plane", "32x32", "--batch", "16", "--threads", "1")
    done = mest(*verbose, "compile", "net.py:foreign", *sizes, *BLOCK, "--output", "step", "--json", "-")
    found = json.loads(done.stdout)["fallbacks"]
    assert {(one["operator"], one["module"]) for one in found["operators"]} == {
        ("sigmoid", "2"), ("tile_out", "2"), ("tile_in", "2"), ("tile_in", "(the input)"),
    }  # fmt: skip
    assert found == Artifact.load("step").manifest["fallbacks"]
    (warning,) = [line for line in done.stderr.splitlines() if "generic kernels or" in line]
    start = f"warning: 4 operators run by generic kernels or outside batch tiles, {found['share']:.1%} of the step's"
    assert found["share"] > 0.05 and warning.startswith(start) and " in 2 " in warning and "1 more;" in warning
    assert ("share of time" in done.stderr) is bool(verbose)


def test_masks_of_a_file(mest, folder: Path, mask: np.ndarray) -> None:
    save_file({LAYER: mask}, "masks.safetensors")
    mest("compile", MODEL, *SMALL, "--scheme", "block", "--masks", "masks.safetensors", "--output", "step.zip")
    assert np.array_equal(Artifact.load("step.zip").structures[LAYER].to_mask(), mask)


@pytest.mark.parametrize("name", ["weights.safetensors", pytest.param("weights.pt", marks=pytest.mark.slow)])
def test_masks_and_start_from_trained_weights(mest, folder: Path, mask: np.ndarray, name: str) -> None:
    network = models.build(MODEL)
    with torch.no_grad():
        network.get_parameter(LAYER).mul_(torch.from_numpy(mask))
    state = network.state_dict()
    if name.endswith(".pt"):
        torch.save(state, name)
    else:
        save_file({key: tensor.numpy() for key, tensor in state.items()}, name)
    mest("compile", MODEL, *SMALL, "--scheme", "block", "--masks-from", name, "--output", "step")
    loaded = Artifact.load("step")
    structure = loaded.structures[LAYER]
    assert set(loaded.structures) == {LAYER}
    assert np.array_equal(structure.to_mask(), mask)
    assert np.array_equal(structure.expand(loaded.tensors[LAYER]), state[LAYER].numpy())
    assert np.array_equal(loaded.tensors["0.weight"], state["0.weight"].numpy())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet99", *BLOCK], "There is no model 'resnet99'"),
        (["net.py:nothing", *BLOCK], "has no callable 'nothing'"),
        (["none.py:make", *BLOCK], "There is no model file 'none.py'"),
        (["net.py:unsupported"], "gelu"),
        ([MODEL, "--scheme", "block", "--sparsity", "1.2"], "1.2 is not a fraction of zeros"),
        ([MODEL, "--scheme", "block"], "--scheme was given without --sparsity"),
        ([MODEL, "--sparsity", "0.5"], "--sparsity was given without --scheme"),
        ([MODEL, "--scheme", "blocks", "--sparsity", "0.5"], "There is no sparsity scheme 'blocks'"),
        ([MODEL, *BLOCK, "--device", "gpu"], "There is no device 'gpu'"),
        ([MODEL, *BLOCK, "--plane", "8"], "'8' is not a plane"),
        ([MODEL, "--masks", "other.safetensors"], "Masks need to know their scheme"),
        ([MODEL, "--scheme", "block", "--masks", "other.safetensors"], "is of another model"),
        ([MODEL, "--scheme", "block", "--masks", "ragged.safetensors"], "is no mask of scheme 'block'"),
        ([MODEL, *BLOCK, "--masks", "ragged.safetensors"], "is no mask of scheme 'block'"),
        ([MODEL, *BLOCK, "--masks", "net.py"], "Mask file net.py cannot be read"),
        ([MODEL, "--scheme", "block", "--masks-from", "other.safetensors"], "are of another model"),
        ([MODEL, "--scheme", "block", "--masks-from", "net.py"], "Weights net.py cannot be read"),
        ([MODEL, "--nesterov", "--momentum", "0"], "nesterov of sgd is false without momentum"),
        ([MODEL, "--profile", "authors.yaml"], "prune_ratios need a scheme: add the key 'scheme', or give --scheme"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    refused, folder: Path, arguments: list[str], sentence: str
) -> None:
    ragged = np.ones(SHAPE, bool)
    ragged[0] = False
    save_file({LAYER: ragged}, "ragged.safetensors")
    save_file({"conv1.weight": np.ones((4, 3, 3, 3), bool)}, "other.safetensors")
    Path("authors.yaml").write_text("prune_ratios: {3: 0.5}")
    before = sorted(folder.iterdir())
    small = [part for part in SMALL if not ("--plane" in arguments and part in SMALL[:2])]
    assert sentence in refused("compile", *arguments, *small, "--output", "runs/step")
    assert sorted(path for path in folder.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("/proc/none/step", "cannot use '/proc/none/step': "),
        ("net.py/step", "cannot use 'net.py/step': Not a directory"),
        ("net.py", "net.py exists and is no artifact"),
        (".", "exists and is no artifact"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    refused, folder: Path, output: str, sentence: str
) -> None:
    # the model does not exist either: the place is looked at first
    assert sentence in refused("compile", "resnet99", "--output", output)
    assert [path.name for path in folder.iterdir()] == ["net.py"]
