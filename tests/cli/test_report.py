"""`mest report`: the files it leaves, how it goes on after a break, and what it refuses."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mest_compiler.bench import figure2, table_k1
from mest_compiler.bench.figure2 import Figure, Point
from mest_compiler.bench.rounds import Timing
from mest_compiler.cli.report import Reports
from mest_compiler.errors import BenchError

TINY = ("--layer", "layer:8,8,3,6x6", "--batch", "8", "--rounds", "1", "--output", "out")
SCHEMES = ("--schemes", "unstructured,block")
CSV, PNG = Path("out/figure2.csv"), Path("out/figure2.png")
COLUMNS = ["scheme", "sparsity", "ms_sparse", "ms_dense", "ms_torch", "speedup_torch", "speedup_dense", "spread"]
COLUMNS += ["slowed", "threads", "machine", "date", "command"]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _places(path: Path = CSV) -> list[tuple[str, float]]:
    return [(row["scheme"], float(row["sparsity"])) for row in _rows(path)]


def _point(figure: Figure, scheme: str, sparsity: float) -> Point:
    """A block layer gains from 0.6 on, any other one does not."""
    speedup = 1 + 5 * (sparsity - 0.6) if scheme == "block" else 0.5
    origin = {key: value for key, value in figure.origin().items() if key not in figure.settings()}
    return Point(
        scheme=scheme, sparsity=sparsity, ms_sparse=1 / speedup, ms_dense=2.0, ms_torch=1.0, speedup_torch=speedup,
        speedup_dense=2 * speedup, spread=0.1, slowed=1.0, zeros=sparsity, torch_variant="torch_nchw_direct",
        kernels="a b c",
        max_rel_error=1e-7, **figure.settings(), **origin,
    )  # fmt: skip


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[float]:
    """Points without a measurement; the sparsities that were measured, each of which may be followed by a Ctrl-C."""
    done: list[float] = []

    def measure(figure: Figure, groups: Sequence[figure2.Group], _: object) -> Iterator[list[Point]]:
        for sparsity, names in groups:
            if sparsity in interrupted:
                interrupted.clear()
                raise KeyboardInterrupt
            done.append(sparsity)
            yield [_point(figure, name, sparsity) for name in names]

    interrupted: list[float] = []
    monkeypatch.setattr(figure2, "measure", measure)
    monkeypatch.setattr(figure2, "interrupted", interrupted, raising=False)
    return done


def test_figure2_files(mest, measured: list[float]) -> None:
    done = mest("report", "figure2", *TINY, *SCHEMES, "--sparsities", "0.5,0.7,0.9", "--json", "-")
    result = json.loads(done.stdout)
    assert list(_rows(CSV)[0])[:13] == COLUMNS
    assert _places() == [(scheme, s) for scheme in ("unstructured", "block") for s in (0.5, 0.7, 0.9)]
    assert [point["sparsity"] for point in result["points"]] == [0.5, 0.7, 0.9] * 2
    assert result["break_even"]["block"]["sparsity"] == pytest.approx(0.6)
    assert (result["break_even"]["block"]["paper"], result["break_even"]["unstructured"]["paper"]) == (0.7, 0.8)
    assert result["break_even"]["unstructured"]["text"] == "not up to 90.0%"
    assert PNG.read_bytes().startswith(b"\x89PNG")
    typed = "report figure2 --layer layer:8,8,3,6x6 --batch 8 --schemes unstructured,block --sparsities 0.5,0.7,0.9"
    assert typed in _rows(CSV)[0]["command"] == result["command"]
    assert "gains from" in done.stderr
    assert {file.name for file in Path("out").iterdir()} == {"figure2.csv", "figure2.png"}


def test_ctrl_c_keeps_the_points_and_resume_goes_on(run, mest, refused, measured: list[float]) -> None:
    arguments = ("report", "figure2", *TINY, *SCHEMES, "--sparsities", "0.5,0.7,0.9")
    figure2.interrupted.append(0.9)
    stopped = run(*arguments)
    assert stopped.exit_code == 130
    assert "out/figure2.csv keeps 4 of 6 points" in stopped.stderr
    assert [s for _, s in _places()] == [0.5, 0.7] * 2
    assert "out/figure2.csv exists: go on with --resume" in refused(*arguments)
    mest(*arguments, "--resume")
    assert measured == [0.5, 0.7, 0.9]
    assert [s for _, s in _places()] == [0.5, 0.7, 0.9] * 2
    assert len({row["command"] for row in _rows(CSV)}) == 1
    assert PNG.exists()


def test_resume_measures_slowed_points_again(mest, measured: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    calm = figure2.measure

    def disturbed(*arguments: Any) -> Iterator[list[Point]]:
        for some in calm(*arguments):
            yield [replace(point, slowed=1.7, ms_sparse=9.0) if point.sparsity == 0.7 else point for point in some]

    arguments = ("report", "figure2", *TINY, *SCHEMES, "--sparsities", "0.5,0.7")
    monkeypatch.setattr(figure2, "measure", disturbed)
    assert "2 points were slowed by other work on this machine: --resume measures them again" in mest(*arguments).stderr
    monkeypatch.setattr(figure2, "measure", calm)
    assert "slowed" not in mest(*arguments, "--resume").stderr
    assert measured == [0.5, 0.7, 0.7]
    assert {row["slowed"] for row in _rows(CSV)} == {"1.0"}
    assert all(float(row["ms_sparse"]) < 9 for row in _rows(CSV))


def test_a_failure_keeps_the_points_too(run, measured: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(figure: Figure, groups: Sequence[figure2.Group], _: object) -> Iterator[list[Point]]:
        yield [_point(figure, "block", 0.5)]
        raise BenchError("contestant 'block' ended with status 1: no kernel")

    monkeypatch.setattr(figure2, "measure", measure)
    assert run("report", "figure2", *TINY, *SCHEMES).exit_code == 2
    assert _places() == [("block", 0.5)]


def test_resume_adds_schemes_and_keeps_what_is_not_asked_for(mest, measured: list[float]) -> None:
    mest("report", "figure2", *TINY, "--schemes", "block", "--sparsities", "0.5,0.9")
    mest("report", "figure2", *TINY, "--schemes", "unstructured", "--sparsities", "0.7", "--resume")
    assert _places() == [("unstructured", 0.7), ("block", 0.5), ("block", 0.9)]


def test_resume_with_other_settings(refused, mest, measured: list[float]) -> None:
    arguments = ("report", "figure2", *TINY, *SCHEMES, "--sparsities", "0.5")
    mest(*arguments)
    assert "was measured with seed 0, not 1" in refused(*arguments, "--seed", "1", "--resume")
    CSV.write_text("scheme\nblock\n")
    assert "out/figure2.csv is no table of this report" in refused(*arguments, "--resume")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--schemes", "blok"], "There is no sparsity scheme 'blok' (did you mean 'block'"),
        (["--schemes", ","], "',' names nothing"),
        (["--sparsities", "90"], "'90' is no list of sparsities"),
        (["--sparsities", "0.5,x"], "'0.5,x' is no list of sparsities"),
        (["--sparsities", "0.9999", *SCHEMES], "None of these schemes can have one of these sparsities"),
        (["--layer", "layer:8,6,3,6x6", "--schemes", "block"], "has 6 filters"),
        (["--layer", "8x8"], "'8x8' is not a layer"),
        (["--threads", "1000"], "1000 threads were asked for"),
        (["--device", "gpu"], "There is no device 'gpu'"),
        (["--output", "net.py/out", *SCHEMES], "cannot use 'net.py/out/figure2.csv': Not a directory"),
    ],
)
def test_figure2_refuses(refused, measured: list[float], arguments: list[str], sentence: str) -> None:
    assert sentence in refused("report", "figure2", *TINY, *arguments)
    assert measured == []
    assert not Path("out").exists()


@pytest.mark.slow
def test_figure2_measured(mest, folder: Path) -> None:
    mest("report", "figure2", *TINY, "--schemes", "block", "--sparsities", "0.5", "--json", "a.json")
    (point,) = json.loads(Path("a.json").read_text())["points"]
    assert point["ms_sparse"] > 0
    assert point["max_rel_error"] < 1e-5
    assert point["speedup_torch"] == pytest.approx(point["ms_torch"] / point["ms_sparse"])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The table of a small network."""
    monkeypatch.setattr(table_k1, "MODEL", "net.py:make")
    monkeypatch.setattr(table_k1, "INPUT_SHAPE", (3, 8, 8))
    monkeypatch.setattr(table_k1, "CLASSES", 10)


K1 = ("report", "table-k1", "--batch", "8", "--threads", "1", "--rounds", "1", "--output", "out")


@pytest.mark.slow
def test_table_k1_measured(mest, small: None) -> None:
    done = mest(*K1, "--rows", "dense,block", "--json", "-")
    result = json.loads(done.stdout)
    rows = result["rows"]
    assert list(rows) == ["dense", "block", "torch_nchw", "torch_channels_last"]
    assert rows["dense"]["zeros"] == 0
    assert rows["block"]["zeros"] == pytest.approx(0.9, abs=0.01)
    assert rows["block"]["speedup_dense"] == pytest.approx(rows["dense"]["seconds"] / rows["block"]["seconds"])
    assert (rows["block"]["paper_seconds"], rows["torch_nchw"]["paper_seconds"]) == (6.25, None)
    assert [row["row"] for row in _rows(Path("out/table-k1.csv"))] == list(rows)
    assert Path("out/table-k1.png").read_bytes().startswith(b"\x89PNG")
    assert "--rows dense,block" in result["command"]
    assert "s paper" in done.stderr


def test_table_k1_files(mest, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is what is timed; the timing itself is made up."""

    def measure(paths: dict[str, Path], *_: object, **__: object) -> dict[str, Timing]:
        assert all((path / "library.so").exists() for path in paths.values())
        return {name: Timing([10.0], {"peak_rss_mb": 1.0}) for name in (*paths, "torch_nchw")}

    monkeypatch.setattr(table_k1, "measure", measure)
    mest(*K1, "--rows", "block", "--json", "k1.json")
    rows = json.loads(Path("k1.json").read_text())["rows"]
    assert (rows["block"]["seconds"], rows["block"]["speedup_torch"]) == (0.01, 1.0)
    assert rows["block"]["speedup_dense"] is None
    assert {file.name for file in Path("out").iterdir()} == {"table-k1.csv", "table-k1.png"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rows", "blok"], "Table K.1 has no row 'blok'"),
        (["--threads", "1000"], "1000 threads were asked for"),
        (["--output", "net.py"], "'net.py' is a file"),
        (["--output", "net.py/out"], "cannot use 'net.py/out/table-k1.csv': Not a directory"),
        (["--width", "0", "--rows", "dense"], "width=0"),
    ],
)
def test_table_k1_refuses(refused, folder: Path, arguments: list[str], sentence: str) -> None:
    assert sentence in " ".join(refused(*K1, *arguments).split())
    assert not Path("out").exists()


def test_a_group_without_a_command_shows_its_help(run) -> None:
    done = run("report")
    assert (done.exit_code, "mest:" in done.stderr) == (2, False)
    assert "figure2" in done.output
    assert run("report", "nothing").stderr == "mest: No such command 'nothing'.\n"


def test_help_does_not_load_the_machinery() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom mest_compiler.cli.main import app\n"
        "for name in sys.argv[1:]:\n"
        "    result = CliRunner().invoke(app, ['report', name, '--help'])\n"
        "    assert result.exit_code == 0, result.exception\n"
        "    print(name, sorted({'torch', 'tvm', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    names = Reports().names()
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, timeout=60)
    assert (done.stdout.splitlines(), done.stderr) == ([f"{name} []" for name in names], "")
