"""Contestants that fail, die or hang, and parents that do: one sentence each, and no process left behind."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from mest_compiler.bench.rounds import Limits, interleave
from mest_compiler.errors import BenchError

LIMITS = Limits(build=20, ask=20, turn=0.02, patience=0)
HERE = Path(__file__).parent

PARENT = """
import sys
from mest_compiler.bench.rounds import Contestant, interleave
slow = Contestant("slow", "sample_contestants:Slow", {"run": 60.0, "pid_file": sys.argv[1]})
interleave([slow], 1)
"""


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("Raises", {"when": "build"}, "contestant 'bad' ended with status 1: ValueError: no such kernel"),
        ("Raises", {"when": "run"}, "contestant 'bad' ended with status 1: RuntimeError: out of registers"),
        ("Dies", {"how": "exit"}, "contestant 'bad' ended with status 3: the driver gave up"),
        ("Dies", {"how": "killed"}, "contestant 'bad' was ended by SIGKILL: it left no message"),
        ("Missing", {}, "contestant 'bad' ended with status 1: AttributeError: .*Missing"),
        ("Summer", {"colour": 1}, "contestant 'bad' ended with status 1: TypeError: .*colour"),
    ],
)
def test_a_contestant_that_fails(contestant, no_worker_left, factory, arguments, message) -> None:
    with pytest.raises(BenchError, match=message):
        interleave([contestant("good", "Bare"), contestant("bad", factory, **arguments)], 1, limits=LIMITS)
    assert no_worker_left()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"build": 60.0}, "'slow' did not finish its construction within 1.5 s"),
        ({"run": 60.0}, "'slow' did not finish the request 'turn' within 1 s"),
    ],
)
def test_a_contestant_that_hangs(contestant, no_worker_left, arguments, message) -> None:
    start = time.monotonic()
    with pytest.raises(BenchError, match=message):
        interleave([contestant("slow", "Slow", **arguments)], 1, limits=Limits(build=1.5, ask=1, turn=0.02, patience=0))
    assert time.monotonic() - start < 10
    assert no_worker_left()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_contestant_ends_with_its_parent(tmp_path: Path, python: str, ending: signal.Signals) -> None:
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen(
        [python, "-c", PARENT, str(pid_file)],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stderr=subprocess.PIPE,
        text=True,
    )
    worker = _wait_for_pid(pid_file)
    time.sleep(0.2)  # until it is in the middle of its run
    parent.send_signal(ending)
    _, said = parent.communicate(timeout=10)
    assert ("KeyboardInterrupt" in said) == (ending == signal.SIGINT)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)


def _wait_for_pid(path: Path) -> int:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, "the worker was never built"
        time.sleep(0.05)
    return int(path.read_text())
