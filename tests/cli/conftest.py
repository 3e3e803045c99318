"""What the tests of the commands share: a way to run one, a small network, and an artifact of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner, Result

from mest_compiler.cli.main import app
from mest_compiler.devices import CpuProfile
from mest_compiler.training.progress import RichReporter

from ..whole_step.cases import unoptimised

NETWORK = """
from torch import nn


def make(classes=10, in_channels=3):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    )


def foreign(classes=10, in_channels=3):
    net = make(classes, in_channels)
    net[2] = nn.Sigmoid()
    return net


def unsupported(classes=10, in_channels=3):
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
SMALL = ("--plane", "8x8", "--batch", "8", "--threads", "1")
BLOCK = ("--scheme", "block", "--sparsity", "0.5")
LAYER, SHAPE = "3.weight", (16, 8, 3, 3)
"""The one sparse layer of NETWORK."""


def run(*arguments: object) -> Result:
    """`mest` with these arguments, in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(name="run")
def _run() -> Callable[..., Result]:
    """Run a command, however it ends."""
    return run


@pytest.fixture
def mest() -> Callable[..., Result]:
    """Run a command that must succeed."""

    def succeed(*arguments: object) -> Result:
        result = run(*arguments)
        assert result.exit_code == 0, result.stderr
        return result

    return succeed


@pytest.fixture
def refused() -> Callable[..., str]:
    """Run a command that must end with status 2 and one sentence on standard error, which is returned."""

    def fail(*arguments: object) -> str:
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), result.stderr
        (sentence,) = result.stderr.splitlines()
        assert sentence.startswith("mest: ")
        return sentence

    return fail


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a command that is interrupted when the reporter's `event` happens for the `count`th time."""

    def stop(event: str, count: int, *arguments: object) -> None:
        seen = []
        with monkeypatch.context() as patch:

            def interrupt(*_: object) -> None:
                seen.append(event)
                if len(seen) == count:
                    raise KeyboardInterrupt

            patch.setattr(RichReporter, event, interrupt)
            result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 130, result.stderr
        assert "resume the run to go on from there" in result.stderr

    return stop


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder but for net.py."""
    (tmp_path / "net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _compiled_once(compiled_once: None) -> None:
    """These tests compile few steps, many times."""


@pytest.fixture(autouse=True)
def _unoptimised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this process compile without LLVM's optimiser; those that start others use it there."""
    monkeypatch.setattr(CpuProfile, "target", property(unoptimised))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, keeping: Callable[[pytest.MonkeyPatch], None]) -> Path:
    """A block-sparse artifact of the small network; read only."""
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "net.py").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        keeping(patch)
        patch.setattr(CpuProfile, "target", property(unoptimised))
        result = run("compile", f"{folder}/net.py:make", *SMALL, *BLOCK, "--output", folder / "step")
    assert result.exit_code == 0, result.stderr
    return folder / "step"


@pytest.fixture
def artifact(compiled: Path, folder: Path) -> Path:
    """A copy of it in the working folder."""
    shutil.copytree(compiled, folder / "step")
    return Path("step")


@pytest.fixture(scope="session")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `mest devices serve`, whose key is "here"; a script's job in the background, ended by Ctrl-C."""
    command = [sys.executable, "-m", "mest_compiler.cli.main", "devices", "serve", "--port", "0", "--json", "-"]
    in_background = ["bash", "-c", "trap '' INT; exec \"$@\"", "job", *command, "--key", "here"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    said = tmp_path_factory.mktemp("tracker") / "said.txt"
    with said.open("w") as errors:
        process = subprocess.Popen(in_background, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    try:
        facts = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        assert (facts["key"], facts["device"], facts["servers"]) == ("here", "opencl", 1)
        children = psutil.Process(process.pid).children(recursive=True)
        assert {child.pid for child in children} == set(facts["processes"].values())
        yield facts["tracker"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert said.read_text().splitlines()[-1] == "stopping"
        assert not [child for child in children if child.is_running()]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
