"""What the tests of the house share: the repository, and a copy of its sources to build from or to break."""

import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = ("mest_compiler", "schedules", "models", "tuning_logs")
FILES = ("pyproject.toml", "setup.py", "Makefile", "LICENSE")


@pytest.fixture
def repository() -> Path:
    """The folder that holds pyproject.toml."""
    return REPOSITORY


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources of the package in a folder of their own, without the environment and what was built
    before."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in SOURCES:
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(REPOSITORY / name, folder / name)
    return folder
