"""Weight gradients under Oclgrind with a phone's limits: no races, no reads of what nobody wrote or out of bounds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .watched_gradients import FAMILIES

ROOT = Path(__file__).parents[3]
OPTIONS = "--max-wgsize 1024 --local-mem-size 32768 --num-threads 1 --data-races --uninitialized --check-api"
LIBRARIES = [
    Path("/usr/lib/oclgrind/liboclgrind-rt-icd.so"),
    *Path("/usr/lib").glob("*/oclgrind/liboclgrind-rt-icd.so"),
]
LIBRARY = next((path for path in LIBRARIES if path.exists()), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LIBRARY is None or shutil.which("oclgrind") is None, reason="Oclgrind is not installed"),
]


def watched(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """The process, and what Oclgrind had to say."""
    log = folder / "oclgrind.log"
    (folder / "oclgrind.icd").write_text(f"{LIBRARY}\n")
    command = [
        "oclgrind",
        *OPTIONS.split(),
        "--log",
        str(log),
        sys.executable,
        "-m",
        "tests.schedules.opencl.watched_gradients",
    ]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env={**os.environ, "OCL_ICD_VENDORS": str(folder)}, timeout=600,
        capture_output=True, text=True,
    )  # fmt: skip
    return done, log.read_text() if log.exists() else ""


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_found(family: str, tmp_path: Path) -> None:
    done, said = watched(tmp_path, family)
    assert done.returncode == 0, done.stderr
    assert not said


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_barrier_is_found(family: str, tmp_path: Path) -> None:
    _, said = watched(tmp_path, family, "no barriers")
    assert "race" in said


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_that_do_not_start_at_zero_are_found(family: str, tmp_path: Path) -> None:
    _, said = watched(tmp_path, family, "no zeros")
    assert "ninitialized" in said
