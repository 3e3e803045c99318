"""Runs a module of the tests under Oclgrind, with a phone's limits: its work-groups, its local memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FLAGS = ["--max-wgsize", "1024", "--local-mem-size", "32768", "--num-threads", "1"]
FLAGS += ["--data-races", "--uninitialized", "--check-api"]
PLACES = [Path("/usr/lib/oclgrind"), *Path("/usr/lib").glob("*/oclgrind")]
LIBRARY = next((p for p in (place / "liboclgrind-rt-icd.so" for place in PLACES) if p.exists()), None)

needs_oclgrind = pytest.mark.skipif(
    LIBRARY is None or shutil.which("oclgrind") is None, reason="Oclgrind is not installed"
)


def watched(folder: Path, module: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """`python -m module arguments` in a process of its own, and what Oclgrind had to say; `folder` is scratch."""
    log = folder / "oclgrind.log"
    (folder / "oclgrind.icd").write_text(f"{LIBRARY}\n")
    command = ["oclgrind", *FLAGS, "--log", str(log), sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "OCL_ICD_VENDORS": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=600, capture_output=True, text=True)
    return done, log.read_text() if log.exists() else ""
