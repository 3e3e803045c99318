"""Whole steps on an OpenCL device behind RPC: tracker, supervised server with the plug-in, client without OpenCL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mest_compiler.runtime import opencl
from mest_compiler.runtime.remote.supervisor import Supervisor

pytestmark = pytest.mark.slow  # one step is compared in tests/runtime/remote/test_step.py
KEY = "steps"
ROOT = Path(__file__).parents[2]
LIMIT_S = 1200


@pytest.fixture(scope="module")
def server() -> Iterator[Supervisor]:
    with Supervisor(KEY, libraries=[str(opencl.build())]) as running:
        yield running


def client(server: Supervisor, task: str, *schemes: str) -> str:
    """What a client of its own process prints about a task."""
    command = [sys.executable, "-m", "tests.whole_step.remotely", str(server.tracker), KEY, task, *schemes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_three_steps_of_a_whole_network_in_float64(server: Supervisor) -> None:
    client(server, "deep", "block", "pattern", "unstructured")


def test_three_steps_of_a_whole_network_in_float32(server: Supervisor) -> None:
    said = client(server, "single", "block", "pattern", "unstructured")
    assert said.count("loss") == 3


def test_a_hundred_steps_on_real_images(server: Supervisor) -> None:
    assert client(server, "mnist", "block", "pattern", "unstructured").count("->") == 3
