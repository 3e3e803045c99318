"""What the tests of the bench share: contestants of this folder, and a look at what processes are left."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mest_compiler.bench.rounds import Contestant

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _compiled_once(compiled_once: None) -> None:
    """What a step is compiled to is no matter of the bench."""


@pytest.fixture
def contestant() -> Callable[..., Contestant]:
    """Describe one of sample_contestants.py: `contestant("a", "Summer", count=3, threads=1)`."""

    def describe(name: str, factory: str, threads: int = 1, **arguments: Any) -> Contestant:
        path = f"sample_contestants:{factory}"
        return Contestant(name, path, arguments, threads, environment={"PYTHONPATH": str(HERE)})

    return describe


@pytest.fixture
def no_worker_left() -> Callable[[], bool]:
    """Whether this process has no worker among its children."""

    def check() -> bool:
        return not any(
            "mest_compiler.bench.worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE
            for child in psutil.Process().children(recursive=True)
        )

    return check


@pytest.fixture
def python() -> str:
    """The interpreter of these tests."""
    return sys.executable
