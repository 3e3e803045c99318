"""`mest bench`: the keys of its result, and what it refuses."""

import json
from pathlib import Path

import pytest

LAYER = "layer:8,8,3,8x8"
BLOCK = ("--scheme", "block", "--sparsity", "0.5")
QUICK = ("--batch", "8", "--threads", "1", "--rounds", "1")
DIRECTIONS = {"forward", "backward_data", "backward_weight"}


def test_an_artifact_alone(mest, artifact: Path) -> None:
    done = mest("bench", artifact, "--threads", "1", "--rounds", "2", "--profile-kernels", "--json", "-")
    result = json.loads(done.stdout)
    assert set(result["ms"]) == {"sparse"}
    assert result["speedup"] == {}
    assert result["max_rel_error"] is None
    assert result["state_bytes"]["sparse"] == sum(result["state_bytes_details"]["sparse"].values())
    assert set(result["kernels"]["sparse"]["3.weight"]) == DIRECTIONS
    assert result["batch"] == 8
    times = [kernel["ms"] for kernel in result["kernel_ms"]["sparse"].values()]
    assert times == sorted(times, reverse=True)
    assert "by kernel" in done.stderr


@pytest.mark.slow
def test_a_layer_against_all(mest) -> None:
    done = mest("bench", LAYER, *BLOCK, *QUICK, "--compare", "torch,dense", "--json", "-")
    result = json.loads(done.stdout)
    assert set(result["ms"]) == {"sparse", "dense", "torch"}
    assert result["speedup"]["torch"] == pytest.approx(result["ms"]["torch"] / result["ms"]["sparse"])
    assert result["speedup"]["dense"] == pytest.approx(result["ms"]["dense"] / result["ms"]["sparse"])
    assert result["speedup"]["dense_vs_torch"] == pytest.approx(result["ms"]["torch"] / result["ms"]["dense"])
    assert result["ms"]["torch"] == min(result["torch_variants"].values())
    assert len(result["torch_variants"]) == 4
    assert result["max_rel_error"] < 1e-5
    assert set(result["kernels"]["dense"][LAYER]) == set(result["kernels"]["sparse"][LAYER]) == DIRECTIONS
    assert {"sparse", "dense", "torch"} <= set(result["peak_rss_mb"])
    assert (result["threads"], result["device"], result["rounds"]) == (1, "cpu", 1)
    assert result["machine"]["cores"] >= 1


@pytest.mark.slow
def test_a_network_of_ones_own(mest, folder: Path) -> None:
    arguments = ("--plane", "8x8", "--compare", "torch,dense", "--json", "-")
    result = json.loads(mest("bench", "net.py:make", *BLOCK, *QUICK, *arguments).stdout)
    assert set(result["ms"]) == {"sparse", "dense", "torch"} == set(result["state_bytes"])
    assert result["max_rel_error"] < 1e-5
    assert result["rel_errors"]["dense"]["loss"] < 1e-5
    assert result["state_bytes"]["dense"] == result["state_bytes"]["torch"] > result["state_bytes"]["sparse"]
    assert result["compile_seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet99"], "There is no model 'resnet99'"),
        (["resnet20", "--uneven"], "--uneven says nothing about a network: leave it out."),
        (["resnet20", *BLOCK, "--compare", "unordered"], "--compare unordered is about a single layer: leave it out."),
        ([LAYER, "--compare", "unordered"], "A dense layer has no rows to reorder"),
        ([LAYER, "--compare", "tensorflow"], "There is nothing called 'tensorflow' to compare with"),
        ([LAYER, "--width", "2"], "--width says nothing about a single layer"),
        ([LAYER, *BLOCK, "--threads", "1000"], "1000 threads were asked for"),
        (["layer:8,6,3,8x8", *BLOCK], "has 6 filters, which scheme 'block' cannot cut"),
        (["layer:8,8"], "'layer:8,8' is not a layer"),
        (["net.py"], "net.py is no whole artifact"),
        (["."], "There is no artifact at ."),
    ],
)
def test_bad_input(refused, folder: Path, arguments: list[str], sentence: str) -> None:
    assert sentence in refused("bench", *arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--batch", "9"], "was compiled for a batch of 8, not of 9"),
        (["--compare", "torch"], "--compare says nothing about an artifact"),
        (["--sparsity", "0.5"], "--sparsity says nothing about an artifact"),
    ],
)
def test_what_an_artifact_was_not_built_for(refused, artifact: Path, arguments: list[str], sentence: str) -> None:
    assert sentence in refused("bench", artifact, *arguments)


@pytest.mark.parametrize("file", ["library.so", "state.safetensors", "structures.safetensors"])
def test_one_flipped_byte(refused, artifact: Path, file: str) -> None:
    data = bytearray((artifact / file).read_bytes())
    data[len(data) // 2] ^= 1
    (artifact / file).write_bytes(data)
    assert f"{file} of artifact step is damaged" in refused("bench", artifact)
