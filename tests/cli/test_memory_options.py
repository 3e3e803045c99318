"""--memory-limit, --activations, `mest profile --memory` and `mest report memory`."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from mest_compiler.bench import memory
from mest_compiler.bench.memory import KINDS, Row
from mest_compiler.bench.rounds import Timing
from mest_compiler.cli import compiling
from mest_compiler.cli.options import bytes_of
from mest_compiler.errors import MemoryLimitError
from mest_compiler.passes.fit_memory import host_bytes
from mest_compiler.passes.options import StepOptions
from mest_compiler.training import data as data_sets

from .conftest import BLOCK, SMALL
from .tiny_runs import rows

MODEL = "net.py:make"
LARGER = (MODEL, "--plane", "48x48", "--batch", "64", "--threads", "1")
"""With activations beside which nothing else counts."""
TRAIN = ("train", "--model", MODEL, "--data", "rows", "--epochs", "1", "--batch", "4", "--threads", "1")
MEASURED = ("planned_peak", "measured_peak")
SMALLEST = 200_000
SMALLEST_STEP = ("--plane", "8x8", "--batch", "2")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("200MB", 200_000_000),
        ("1.5GiB", 3 * 2**29),
        ("80 MiB", 80 * 2**20),
        ("0.1 kb", 100),
        ("64KiB", 2**16),
        (" 2gb ", 2 * 10**9),
        ("1234567", 1234567),
        ("12 B", 12),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "lots", "MB", "200 MX", "-5MB", "1e9", "200M", "1.5.5MB", "nan", "inf", "٣x"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no size: write a number of bytes, or one with kB, MB"):
        bytes_of(text)


@pytest.mark.parametrize("text", ["0", "0MB", "0.1", "0.0001kB"])
def test_sizes_of_nothing(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="must be at least one byte"):
        bytes_of(text)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["compile", MODEL, "--output", "out", "--memory-limit", "big"], "'big' is no size"),
        (["compile", MODEL, "--output", "out", "--memory-limit", "0MB"], "'0MB' is not a size that anything fits in"),
        (
            ["compile", MODEL, "--output", "out", "--activations", "fp8"],
            "'fp8' is no way to store activations: use fp32",
        ),
        (["bench", "layer:8,8,3,8x8", "--memory-limit", "1MB"], "--memory-limit says nothing about a single layer"),
        (["bench", "layer:8,8,3,8x8", "--activations", "bf16"], "--activations says nothing about a single layer"),
        (["profile", MODEL, "--memory-limit", "1MB"], "are about the compiled step: add --memory."),
        (["profile", MODEL, "--activations", "bf16"], "are about the compiled step: add --memory."),
        ([*TRAIN, "--backend", "torch", "--memory-limit", "1MB"], "--backend torch keeps all activations as they are"),
        ([*TRAIN, "--backend", "torch", "--activations", "bf16"], "--backend torch keeps all activations as they are"),
        (["bench", MODEL, "--activations", "fp16"], "cannot be stored as float16 on cpu devices"),
        (
            ["compile", MODEL, "--output", "out", "--device", "opencl", "--activations", "bf16"],
            "cannot be stored as bfloat16 on opencl devices, which have float32 and float16",
        ),
        (["profile", MODEL, "--memory", "--activations", "fp16"], "cannot be stored as float16 on cpu devices"),
        ([*TRAIN, "--memory-limit", "nonsense"], "'nonsense' is no size"),
        ([*TRAIN, "--activations", "fp8"], "'fp8' is no way to store activations"),
        (["bench", MODEL, "--memory-limit", "0"], "'0' is not a size that anything fits in"),
        (["profile", MODEL, "--memory", "--activations", "fp8"], "'fp8' is no way to store activations"),
        (["report", "memory", "--sparsity", "0"], "a fraction of zeros between 0 and 1"),
        (["report", "memory", "--schemes", "auto"], "needs schemes by name"),
        (["report", "memory", "--schemes", "blok"], "There is no sparsity scheme 'blok'"),
    ],
)
def test_refused(refused, folder: Path, arguments: list[str], sentence: str) -> None:
    assert sentence in refused(*arguments)
    assert {path.name for path in folder.iterdir()} == {"net.py"}


def test_an_artifact_has_its_own(refused, artifact: Path) -> None:
    assert "--memory-limit says nothing about an artifact" in refused("bench", artifact, "--memory-limit", "1MB")
    assert "--activations says nothing about an artifact" in refused("bench", artifact, "--activations", "bf16")


def test_compiled_with_fp16(mest, folder: Path) -> None:
    arguments = ("compile", MODEL, *SMALL, "--device", "galaxy-s20", "--activations", "fp16", "--output", "step")
    done = mest(*arguments, "--json", "-")
    assert "activations lie in memory as fp16" in done.stderr
    assert json.loads(done.stdout)["memory"]["stored"] == "float16"
    assert json.loads(Path("step/manifest.json").read_text())["memory"]["stored"] == "float16"


@pytest.mark.slow
def test_compiled_under_a_limit(mest, run, folder: Path) -> None:
    def compiled(*options: str) -> dict[str, object]:
        return json.loads(mest("compile", *LARGER, *options, "--output", "step", "--json", "-").stdout)["memory"]

    free = compiled()
    assert free["planned_peak"] == sum(free["planned"].values())
    assert set(free["planned"]) == set(KINDS)
    limit = int(0.8 * free["planned_peak"]) + host_bytes(0)
    assert compiled("--memory-limit", str(limit))["planned_peak"] <= limit - host_bytes(0)
    tiny = run("compile", *LARGER, "--memory-limit", "1kB", "--output", "other")
    assert (tiny.exit_code, Path("other").exists()) == (2, False)
    assert tiny.stderr.startswith("mest: ") and len(tiny.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            ["profile", MODEL, *SMALLEST_STEP, "--memory", "--dump", "layers.yaml", "--json", "found.json"],
            marks=pytest.mark.slow,
        ),
        ["compile", MODEL, *SMALLEST_STEP, "--output", "step", "--json", "found.json"],
        pytest.param(["bench", MODEL, *SMALLEST_STEP, "--json", "found.json"], marks=pytest.mark.slow),
        TRAIN,
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_limit_that_no_step_can_meet(
    refused, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]
) -> None:
    monkeypatch.setitem(data_sets.LOADERS, "rows", lambda root, seed, size: rows())
    assert "A training step of this model takes at least" in refused(*arguments, "--memory-limit", "1kB")
    assert {path.name for path in folder.iterdir()} <= {"net.py", "__pycache__"}


def test_a_run_keeps_its_options(mest, refused, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data_sets.LOADERS, "rows", lambda root, seed, size: rows())
    arguments = (*TRAIN, "--run-dir", "run", "--lr", "0.1")
    mest(*arguments, "--activations", "bf16")
    manifest = json.loads(Path("run/artifact/manifest.json").read_text())
    assert manifest["memory"]["stored"] == "bfloat16"
    again = ("train", "--run-dir", "run", "--resume")
    assert "leave out --memory-limit and --activations" in refused(*again, "--memory-limit", "1GB")
    mest(*again)
    assert json.loads(Path("run/artifact/manifest.json").read_text()) == manifest


@pytest.mark.slow
def test_bytes_of_a_networks_bench(mest, folder: Path) -> None:
    arguments = ("--compare", "torch,dense", "--rounds", "1", "--activations", "bf16", "--json", "-")
    result = json.loads(mest("bench", MODEL, *SMALL, *BLOCK, *arguments).stdout)
    assert set(result["bytes"]) == {*KINDS, *MEASURED, "torch_peak"}
    assert set(result["bytes_of"]) == {"sparse", "dense", "torch"}
    assert result["bytes"]["torch_peak"] == result["bytes_of"]["torch"]["peak"]


@pytest.mark.slow
def test_profile_memory(mest, folder: Path) -> None:
    done = mest("profile", *LARGER, "--memory", "--json", "-")
    found = json.loads(done.stdout)["training_memory"]
    assert set(found["bytes"]) == {*KINDS, *MEASURED, "torch_peak"}
    assert list(found["bytes_of"]) == ["dense", "torch"]
    assert found["memory"]["planned_peak"] == found["bytes"]["planned_peak"]
    assert found["bytes"]["measured_peak"] == pytest.approx(found["bytes"]["planned_peak"], rel=0.25)
    # a dense network has no indices: weights and gradients are what the formula says
    assert found["program_bytes"] >= found["table_a1_bytes"]
    assert "times as much" in done.stderr
    assert "as Table A.1 counts" in done.stderr


def test_planes_that_models_are_made_for(mest) -> None:
    shapes = {
        name: json.loads(mest("profile", name, "--json", "-").stdout)["input_shape"]
        for name in ("resnet18", "resnet20")
    }
    assert shapes == {"resnet18": [3, 224, 224], "resnet20": [3, 32, 32]}


@pytest.fixture
def compiled_options(monkeypatch: pytest.MonkeyPatch) -> list[StepOptions]:
    """`mest report memory` without compiling and measuring; the options that were asked for."""
    asked: list[StepOptions] = []

    def compiled(case, profile, *, options: StepOptions, **_: object) -> SimpleNamespace:
        limit = options.memory_limit or 400_000
        if limit < SMALLEST:
            raise MemoryLimitError("too small", SMALLEST)
        asked.append(options)
        planned = {**dict.fromkeys(KINDS, 0), "activations": limit}
        plan = {
            "planned": planned, "planned_peak": limit, "micro_batch": 8, "micro_batches": 1, "recomputed": {},
            "stored": options.stored or "float32",
        }  # fmt: skip
        return SimpleNamespace(
            manifest={"memory": plan, "classes": 7, "parameters": ["w", "b"]}, save=lambda path: path
        )

    def interleave(contestants: list, *_: object) -> Mapping[str, Timing]:
        sizes = {**dict.fromkeys(KINDS, 100), "planned_peak": 700, "measured_peak": 690}
        torch = {"weights": 1, "gradients": 1, "optimizer": 1, "data": 1, "rest": 1, "peak": 5000}
        classes = {one.arguments["classes"] for one in contestants if one.name.startswith("torch")}
        assert classes <= {7}
        return {
            one.name: Timing([3.0], {"result": {"bytes": torch if one.name.startswith("torch") else sizes}})
            for one in contestants
        }

    monkeypatch.setattr(compiling, "compiled", compiled)
    monkeypatch.setattr(memory, "interleave", interleave)
    return asked


def test_report_memory(mest, folder: Path, compiled_options: list[StepOptions]) -> None:
    arguments = ("--model", MODEL, "--schemes", "block,unstructured", "--output", "out", "--threads", "1")
    done = mest("report", "memory", *arguments, "--json", "-")
    free, *limits = memory.limits_between(400_000 + host_bytes(2), SMALLEST)
    assert [one.memory_limit for one in compiled_options] == [*[None] * 5, *limits]
    assert [one.stored for one in compiled_options[:5]] == [None, None, "bfloat16", None, "bfloat16"]
    with Path("out/memory.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    names = ["torch_nchw", "torch_channels_last", "dense", "block", "block, bf16", "unstructured", "unstructured, bf16"]
    assert [row["row"] for row in found if row["panel"] == "steps"] == names
    assert [float(row["memory_limit"]) for row in found if row["panel"] == "limits"] == [free, *limits]
    assert {row["scheme"] for row in found if row["panel"] == "limits"} == {"block"}
    assert len(json.loads(done.stdout)["rows"]) == len(found) == 12
    assert f"report memory --model {MODEL} --schemes block,unstructured" in found[0]["command"]
    assert Path("out/memory.png").read_bytes().startswith(b"\x89PNG")
    assert "7.25x" in done.stderr  # 5000 of PyTorch, 690 of ours


@pytest.mark.slow
def test_report_memory_measured(mest, folder: Path) -> None:
    arguments = ("--model", MODEL, "--plane", "16x16", "--batch", "16", "--schemes", "block", "--sparsity", "0.5")
    done = mest("report", "memory", *arguments, "--rounds", "1", "--threads", "1", "--output", "out", "--json", "-")
    found = [Row(**row) for row in json.loads(done.stdout)["rows"]]
    limits = [row for row in found if row.panel == "limits"]
    assert 2 <= len(limits) <= 5
    assert all(row.planned_peak <= row.measured_peak <= row.memory_limit for row in limits)
    assert all(row.ms > 0 for row in found)
