"""Each write of each command, broken: what is there then is the old file or the new one, and nothing beside it."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
import yaml
from matplotlib.figure import Figure

from mest_compiler.bench import evidence, figure2, memory
from mest_compiler.bench.figure2 import Figure as Figure2
from mest_compiler.bench.rounds import Timing
from mest_compiler.cli import demo
from mest_compiler.cli.report import memory as memory_report
from mest_compiler.cli.report import table_k1 as table_k1_report
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.training import data as data_sets
from mest_compiler.training import recipe as recipes
from mest_compiler.training.recipe import Recipe
from mest_compiler.tuning import search
from mest_compiler.tuning.database import README, RECORDS, WORKLOADS
from mest_compiler.tuning.measure import EvaluatorConfig

from .conftest import BLOCK, SMALL, run
from .faults import FULL, IGNORED, READ_ONLY, TEMPORARY, Watch, tree, watched
from .test_report import _point as point
from .tiny_runs import MUTATING, make_run, rows

ARTIFACT = ["library.so", "state.safetensors", "structures.safetensors", "manifest.json"]


class Faults:
    """Breaks the writes of commands that run in a folder."""

    def __init__(self, root: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.elsewhere, self._monkeypatch = root, elsewhere, monkeypatch

    def __call__(
        self,
        arguments: tuple[object, ...],
        names: list[str],
        *,
        again: Callable[[Path], tuple[object, ...]] | None = None,
        status: int = 2,
        numbers: tuple[int, ...] | None = None,
    ) -> None:
        """names: of the files that the command writes, in order. again: the next run's arguments in a folder, where
        they are others. status: of a command that cannot write. numbers: of the writes that a full disk and a read-only
        folder break, and after which the next run is made; None: of all."""
        before, kept = tree(self.root), Path(tempfile.mkdtemp(dir=self.elsewhere))
        shutil.copytree(self.root, kept, ignore=IGNORED, dirs_exist_ok=True)
        numbers = tuple(range(len(names))) if numbers is None else numbers
        self.killed(arguments, names, again or (lambda folder: arguments), numbers)
        for fault in (FULL, READ_ONLY):
            for number in numbers:
                self.restore(kept)
                with watched(Watch(self.root, fault, number)) as watch:
                    result = run(*arguments)
                said = f"{fault} at {number} ({names[number]}): {result.stderr} {result.exception!r}"
                assert result.exit_code == status and isinstance(result.exception, SystemExit | None), said
                assert result.stderr.splitlines()[-1].startswith("mest: " if status else "not kept: "), said
                watch.check(before, self.root)

    def killed(
        self,
        arguments: tuple[object, ...],
        names: list[str],
        again: Callable[[Path], tuple[object, ...]],
        numbers: tuple[int, ...],
    ) -> None:
        """A kill in every moment of every write; then the next run, once for each name."""
        before = tree(self.root)
        with watched(Watch(self.root, copies=Path(tempfile.mkdtemp(dir=self.elsewhere)))) as watch:
            result = run(*arguments)
        assert result.exit_code == 0, (result.stderr, result.exception)
        assert (watch.names, watch.strays) == (names, set())
        new = {Path(path).name for path, data in tree(self.root).items() if data not in (None, before.get(path))}
        assert new <= set(names), "written by something that Python does not see"
        watch.check(before, self.root)
        halves: dict[str, Path] = {}
        for number, which, copy in watch.moments:
            watch.check(before, copy, killed=True)
            if which == "half" and number in numbers:
                halves[names[number]] = copy
        for copy in halves.values():
            with self._monkeypatch.context() as patch:
                patch.chdir(copy)
                result = run(*again(copy))
            assert result.exit_code == 0, (result.stderr, result.exception)
            assert not [path for path in tree(copy) if any(map(TEMPORARY.fullmatch, Path(path).parts))]

    def restore(self, kept: Path) -> None:
        """The folder as it was before the command."""
        for path in self.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        shutil.copytree(kept, self.root, dirs_exist_ok=True)


@pytest.fixture
def faults(folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(folder, tmp_path_factory.mktemp("faults"), monkeypatch)


@pytest.fixture
def finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run that mutated."""
    return make_run(folder, monkeypatch, **MUTATING).relative_to(folder)


def old(*names: str) -> None:
    for name in names:
        Path(name).write_text("old")


def test_profile(faults: Faults) -> None:
    old("layers.yaml", "out.json")
    command = ("profile", "net.py:make", "--plane", "8x8", *BLOCK, "--dump", "layers.yaml", "--json", "out.json")
    faults(command, ["layers.yaml", "out.json"])


@pytest.mark.parametrize("output", ["step", pytest.param("new/step", marks=pytest.mark.slow), "step.zip"])
def test_compile(faults: Faults, compiled: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    """What is compiled is there already: only the writing is asked for."""
    from mest_compiler.cli import compiling

    monkeypatch.setattr(compiling, "compile_with_bar", lambda *_, **__: Artifact.load(compiled))
    old("out.json")
    if "/" not in output:
        Artifact.load(compiled).save(output)  # an old one, which is replaced
    writes = [output, "out.json"] if output.endswith(".zip") else [*ARTIFACT, "out.json"]
    command = ("compile", "net.py:make", *SMALL, *BLOCK, "--output", output, "--json", "out.json")
    faults(command, [Path(output).name, *writes])


def test_export(faults: Faults, finished: Path) -> None:
    old("net.safetensors", "net.masks.safetensors", "out.json")
    command = ("export", finished, "--torch", "net.safetensors", "--json", "out.json")
    faults(command, ["net.safetensors", "net.masks.safetensors", "net.safetensors", "out.json"])


@pytest.mark.slow
def test_export_onnx(faults: Faults, finished: Path) -> None:
    old("net.onnx")
    faults(("export", finished, "--onnx", "net.onnx"), ["net.onnx", "net.onnx"])


RECIPE = """
model: net.py:make
data: rows
epochs: 1
batch: 48
scheme: block
sparsity: 0.5
"""
CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"
RUN = ["recipe.yaml", LOG, CHECKPOINT, CHECKPOINT, LOG, "weights.safetensors", "masks.safetensors"]


def test_train(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data_sets.LOADERS, "rows", lambda root, seed, size: rows())
    Path("r.yaml").write_text(RECIPE)
    old("out.json")
    command = ("train", "r.yaml", "--run-dir", "runs/a", "--backend", "torch", "--threads", "1", "--json", "out.json")

    def again(folder: Path) -> tuple[object, ...]:
        resumes = (folder / "runs/a" / CHECKPOINT).exists()
        return ("train", "--resume", "--run-dir", "runs/a", "--json", "out.json") if resumes else command

    faults(command, ["artifact", *RUN, "out.json"], again=again)


def test_probe(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is kept for benches, which do without it where it cannot be."""
    from mest_compiler.bench import probe
    from mest_compiler.runtime import hosts

    monkeypatch.setattr(hosts, "LocalHost", lambda profile: None)
    monkeypatch.setattr(probe, "probe", lambda *_: {"device": "d", "opencl": "1.2", "numbers": {}})
    Path("cache/probes").mkdir(parents=True)
    monkeypatch.setenv("MEST_CACHE", "cache")
    faults(("devices", "probe"), ["opencl.json"], status=0)
    old("out.json")
    monkeypatch.setenv("MEST_CACHE", "")
    faults(("devices", "probe", "--json", "out.json"), ["out.json"])


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn at once; only their writing is asked for."""
    monkeypatch.setattr(Figure, "savefig", lambda _, to, **__: to.write(b"picture"))


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("kind", ["run", "forgetting"])
def test_reports_of_runs(faults: Faults, finished: Path, kind: str) -> None:
    old("out.png", "out.json")
    command = ("report", kind, finished, "--output", "out.png", "--json", "out.json")
    faults(command, ["out.png", "out.png", "out.json"])


def filled(kind: type[Any], **known: Any) -> Any:
    """A row of a table with something in every field."""
    some = {str: "x", int: 1, float: 1.0}
    return kind(**{name: known.get(name, some.get(t, 1.0)) for name, t in get_type_hints(kind).items()})


def _figure2(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    def measure(figure: Figure2, groups: list, _: object) -> Iterator[list[figure2.Point]]:
        yield from ([point(figure, name, sparsity) for name in names] for sparsity, names in groups)

    monkeypatch.setattr(figure2, "measure", measure)
    return ("--schemes", "block", "--sparsities", "0.5,0.9")


def _table_k1(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    timings = {name: Timing([10.0], {"peak_rss_mb": 1.0}) for name in ("block", "torch_nchw")}
    monkeypatch.setattr(table_k1_report, "_timed", lambda *_: (timings, {"block": 0.9}))
    return ("--rows", "block")


def _memory(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    def measured(panel: str, *_: object, **__: object) -> list[memory.Row]:
        return [filled(memory.Row, panel=panel, row=row) for row in ("dense", "torch_nchw")]

    dense = SimpleNamespace(manifest={"classes": 10})
    fake = SimpleNamespace(steps=lambda _: defaultdict(lambda: dense), limits=lambda *_: {})
    monkeypatch.setattr(memory_report, "_measured", measured)
    monkeypatch.setattr(memory_report, "_Compiler", lambda *_: fake)
    return ("--model", "net.py:make")


def _evidence(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    def measure(wanted: list, base: Recipe, **_: object) -> Iterator[list[evidence.Trained]]:
        settings = evidence.settings(base, rows())
        for cell, seed in wanted:
            yield [filled(evidence.Trained, **asdict(cell), seed=seed, **settings)]

    monkeypatch.setitem(data_sets.LOADERS, "rows", lambda root, seed, size: rows())
    monkeypatch.setattr(evidence, "measure", measure)
    Path("r.yaml").write_text(RECIPE.replace("net.py:make", "resnet20"))
    return ("--recipe", "r.yaml", "--methods", "static", "--schemes", "block", "--sparsities", "0.5", "--seeds", "2")


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(
    ("kind", "made_up", "kinds"),
    [
        ("figure2", _figure2, ["csv", "csv", "png"]),
        ("table-k1", _table_k1, ["csv", "png"]),
        ("memory", _memory, ["csv", "png", "csv", "png"]),
        ("evidence", _evidence, ["csv", "csv", "png"]),
    ],
)
def test_reports_that_measure(
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    made_up: Callable[..., tuple[str, ...]],
    kinds: list[str],
) -> None:
    """What is measured is made up; a table is written anew when there is more of it."""
    command = ("report", kind, *made_up(monkeypatch), "--output", "out", "--json", "out.json")
    old("out.json")

    def again(folder: Path) -> tuple[object, ...]:
        resumes = kind in ("figure2", "evidence") and (folder / "out" / f"{kind}.csv").exists()
        return (*command, "--resume") if resumes else command

    faults(command, [f"{kind}.csv", *(f"{kind}.{end}" for end in kinds), "out.json"], again=again)


@pytest.mark.slow
def test_bench(faults: Faults) -> None:
    old("out.json")
    command = ("bench", "layer:8,8,3,6x6", *BLOCK, "--batch", "8", "--rounds", "1", "--threads", "1")
    faults((*command, "--json", "out.json"), ["out.json"])


@pytest.mark.slow
def test_train_compiled(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data_sets.LOADERS, "rows", lambda root, seed, size: rows())
    Path("r.yaml").write_text(RECIPE)
    command = ("train", "r.yaml", "--run-dir", "runs/a", "--threads", "1")

    def again(folder: Path) -> tuple[object, ...]:
        return ("train", "--resume", "--run-dir", "runs/a") if (folder / "runs/a" / CHECKPOINT).exists() else command

    faults(command, ["artifact", *ARTIFACT, *RUN], again=again, numbers=(1, 4, 7))


@pytest.mark.slow
def test_demo(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old demo in the folder goes before a new one begins."""
    recipe = Recipe.from_mapping(yaml.safe_load(RECIPE), "a test's recipe")
    monkeypatch.setitem(data_sets.LOADERS, "rows", lambda root, seed, size: rows())
    monkeypatch.setattr(recipes, "load_recipe", lambda name: recipe)
    monkeypatch.setattr(demo, "PROMISED", 0.0)
    monkeypatch.setattr(demo, "ROUNDS", 1)
    command = ("demo", "--run-dir", "runs/a", "--threads", "1", "--json", "out.json")
    faults(command, ["artifact", *ARTIFACT, *RUN, "summary.json", "out.json"], numbers=(1, 12, 13))


@pytest.mark.slow
def test_tune(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CONFIG", EvaluatorConfig(repeats=2, repeat_ms=1, rounds=1, patience_s=0))
    old("out.json", "out.png")
    command = ("tune", "layer:4,8,3,6x6", *BLOCK, "--batch", "8", "--threads", "1", "--trials", "1", "--output", "logs")
    names = [*[WORKLOADS] * 6, RECORDS, README, "out.json"]
    faults((*command, "--json", "out.json"), names, numbers=(0, 6, 7, 8))
    assert run(*command).exit_code == 0
    shown = ("tune", "--show", "--threads", "1", "--output", "logs", "--plot", "out.png", "--json", "out.json")
    faults(shown, ["out.png", "out.json"])
