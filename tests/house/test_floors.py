"""`make layers` sees every room, the mapped folders too, and refuses what points upwards."""

import subprocess
from pathlib import Path

import pytest


def _layers(copy: Path, repository: Path) -> subprocess.CompletedProcess[str]:
    (copy / ".venv").symlink_to(repository / ".venv")
    # -o: the environment is there and must not be made anew
    return subprocess.run(
        ["make", "-C", copy, "-o", ".venv/.installed", "layers"], capture_output=True, text=True, timeout=60
    )


@pytest.fixture(autouse=True)
def _needs_the_environment(repository: Path) -> None:
    if not (repository / ".venv/bin/lint-imports").exists():
        pytest.skip("no .venv in the repository")


def test_the_house_stands(copy: Path, repository: Path) -> None:
    done = _layers(copy, repository)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("mest_compiler/sparsity/upwards.py", "import mest_compiler.cli.main", "sparsity is not allowed"),
        ("schedules/upwards.py", "from mest_compiler.bench import rounds", "schedules is not allowed"),
        ("models/upwards.py", "import mest_compiler.schedules", "models is not allowed"),
        ("mest_compiler/sparsity/heavy.py", "def f():\n    import torch", "sparsity is not allowed"),
        ("mest_compiler/attic/__init__.py", "", "attic"),
    ],
)
def test_an_import_that_points_upwards(copy: Path, repository: Path, file: str, line: str, complaint: str) -> None:
    (copy / file).parent.mkdir(exist_ok=True)
    (copy / file).write_text(line + "\n")
    done = _layers(copy, repository)
    assert done.returncode != 0
    assert complaint in " ".join(done.stdout.split())
