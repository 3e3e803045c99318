"""`mest train` on a device behind RPC: a server that is killed in the middle of training costs steps, not the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mest_compiler.runtime.remote.supervisor import Supervisor

from .conftest import NETWORK

pytestmark = pytest.mark.slow
KEY, EPOCHS, KILLS = "training", 6, 2
ASKED = [
    "--model", "net.py:make", "--data", "mnist", "--examples", "1000", "--batch", "25", "--epochs", str(EPOCHS),
    "--lr", "0.05", "--scheme", "block", "--sparsity", "0.5", "--checkpoint-steps", "5", "--threads", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[Supervisor]:
    with Supervisor(KEY) as running:
        yield running


def start(run: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "mest_compiler.cli.main", "train", *ASKED, "--run-dir", run, *more]
    return subprocess.Popen(command, stderr=Path(f"{run}.txt").open("w"), env={**os.environ, "MEST_CACHE": ""})


def losses(run: str) -> list[float]:
    return [json.loads(line)["loss"] for line in Path(run, "log.jsonl").read_text().splitlines()]


def checkpoint_time(run: str) -> float:
    path = Path(run, "checkpoint.safetensors")
    return path.stat().st_mtime if path.exists() else 0.0


def test_a_server_that_is_killed_in_the_middle(
    served: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORK)
    process = start("remote", "--tracker", str(served.tracker), "--key", KEY)
    killed, seen, until = 0, 0.0, time.monotonic() + 240
    while process.poll() is None and killed < KILLS and time.monotonic() < until:
        time.sleep(0.2)
        if seen < (now := checkpoint_time("remote")):  # it trains, and has more to lose than last time
            sessions = psutil.Process(served.processes()["server-0"]).children()
            if sessions:
                os.kill(sessions[0].pid, signal.SIGKILL)
                killed, seen = killed + 1, now + 1
    said = lambda: Path("remote.txt").read_text()  # noqa: E731
    assert process.wait(timeout=300) == 0, said()
    assert killed == KILLS
    assert said().count("Going on from the checkpoint.") == KILLS
    assert "Traceback" not in said()
    assert start("here").wait(timeout=300) == 0
    assert losses("remote") == losses("here")  # the same program and the same steps, wherever they ran
    assert len(losses("here")) == EPOCHS
