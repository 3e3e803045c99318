"""`mest bench`: the keys of its result, and what it refuses."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mest_compiler.bench.memory import KINDS
from mest_compiler.cli import bench, compiling
from mest_compiler.errors import BenchError, MemoryLimitError
from mest_compiler.passes.options import StepOptions
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.sparsity.automatic import Automatic
from mest_compiler.sparsity.profile import LayerPlan

from . import conftest

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
    moved = {name: kernel["bytes"] for name, kernel in result["kernel_ms"]["sparse"].items()}
    assert min(size for name, size in moved.items() if "forward" in name) > 0
    assert result["bandwidth"] > 0
    assert "by kernel" in done.stderr
    assert set(result["bytes"]) == {*KINDS, "planned_peak", "measured_peak"}
    assert result["bytes_of"] == {"sparse": result["bytes"]}
    assert "training memory, MiB" in done.stderr


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


def test_a_rewrite_turned_the_other_way_round(run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same step but for one option; it ends before anything is timed."""
    compiled, asked = compiling.compile_with_bar, []

    def compile_with_bar(title: str, model: object, **arguments: Any) -> Artifact:
        asked.append(arguments["options"])
        return compiled(title, model, **arguments)

    def measured(artifacts: Mapping[str, Artifact], paths: Mapping[str, Path], case: object, *_: object) -> None:
        assert case is None
        assert list(artifacts) == list(paths) == ["sparse", "weight-gradients"]
        assert np.array_equal(*(one.structures[conftest.LAYER].to_mask() for one in artifacts.values()))
        raise BenchError("nothing is timed here")

    monkeypatch.setattr(compiling, "compile_with_bar", compile_with_bar)
    monkeypatch.setattr(bench, "measured", measured)
    compare = ("--compare", "weight-gradients", "--memory-limit", "1GB")
    done = run("bench", "net.py:make", "--plane", "8x8", *BLOCK, *QUICK, *compare)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, "mest: nothing is timed here"), done.exception
    assert "weight-gradients: the sparse step without this rewrite" in done.stderr
    assert asked == [StepOptions(10**9), StepOptions(10**9, weight_gradients=False)]


def test_an_opponent_that_a_limit_leaves_no_way(run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_with_bar(title: str, model: object, **_: object) -> SimpleNamespace:
        if title == "dense":
            return SimpleNamespace(manifest={"memory": plan}, save=lambda path: path)
        raise MemoryLimitError("A training step of this model takes at least 2 MB", 2 * 10**6)

    plan = {"planned_peak": 10**6, "stored": "float32", "recomputed": {}, "micro_batches": 1}
    monkeypatch.setattr(compiling, "compile_with_bar", compile_with_bar)
    done = run("bench", "net.py:make", *QUICK, "--compare", "forward-sums", "--memory-limit", "1MB")
    sentence = "mest: --compare forward-sums: A training step of this model takes at least 2 MB"
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, sentence)


def test_an_opponent_has_the_schemes_that_auto_chose(artifact: Path) -> None:
    rules = compiling.settled(Automatic(0.5), Artifact.load(artifact))
    convolutions = {"0.weight": (8, 3, 3, 3), conftest.LAYER: conftest.SHAPE}
    assert rules.assign(convolutions, {}) == {conftest.LAYER: LayerPlan("block", 0.5)}
    assert compiling.settled(rules, Artifact.load(artifact)) is rules


@pytest.mark.slow
def test_a_network_against_its_rewrites(mest, folder: Path) -> None:
    arguments = ("--plane", "8x8", "--compare", "torch,forward-sums,weight-gradients", "--json", "-")
    result = json.loads(mest("bench", "net.py:make", *BLOCK, *QUICK, *arguments).stdout)
    names = {"sparse", "forward-sums", "weight-gradients"}
    assert {*names, "torch"} == set(result["ms"]) == set(result["bytes_of"])
    assert set(result["speedup"]) == {"forward-sums", "weight-gradients", "torch"}
    assert all(result["rel_errors"][name]["loss"] < 1e-5 for name in names)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet99"], "There is no model 'resnet99'"),
        (["resnet20", "--compare", "torch,forward-sum"], "(did you mean 'forward-sums'?): use torch, dense, "),
        ([LAYER, "--compare", "forward-sums"], "--compare forward-sums is about a whole network: leave it out."),
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
        (["--compare", "torch"], "--compare torch says nothing about an artifact: leave it out, or give another"),
        (["--compare", "net.py"], "net.py is no whole artifact"),
        (["--device", "opencl"], "was compiled for cpu, not for opencl"),
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
