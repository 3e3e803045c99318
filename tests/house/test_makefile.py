"""`make` on a machine that cannot make the environment says in one sentence what is missing."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize("target", ["demo", "test", "test-all", "lint"])
def test_python_that_is_too_old(repository: Path, tmp_path: Path, target: str) -> None:
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(repository / name, tmp_path)
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(["make", "-C", tmp_path, target, f"PYTHON={old}"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert f"mest: '{old}' is not Python 3.10 or newer; install one and run" in done.stderr
    assert not (tmp_path / ".venv").exists()
