"""Runs a module of the tests under Oclgrind, with a phone's limits: its work-groups, its local memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
import tvm

ROOT = Path(__file__).parents[3]
FLAGS = ["--max-wgsize", "1024", "--local-mem-size", "32768", "--num-threads", "1"]
FLAGS += ["--data-races", "--check-api"]
EVERYTHING = [*FLAGS, "--uninitialized"]
"""Reads of what nobody wrote too. That watcher does not know LLVM's `freeze`, which a number's quotient next to its
remainder becomes unless they are by a power of two: it gives such a kernel up, where the others watch it to its end."""
PLACES = [Path("/usr/lib/oclgrind"), *Path("/usr/lib").glob("*/oclgrind")]
LIBRARY = next((p for p in (place / "liboclgrind-rt-icd.so" for place in PLACES) if p.exists()), None)

needs_oclgrind = pytest.mark.skipif(
    LIBRARY is None or shutil.which("oclgrind") is None, reason="Oclgrind is not installed"
)


def right() -> NoReturn:
    """The last call of a watched process whose checks all held.

    Ends it without the clean-up of libraries, which Oclgrind and TVM's LLVM do not always survive together; what
    Oclgrind found is in its log by then, for it writes every message at once.
    """
    print("right", flush=True)
    os._exit(0)


def plant(fault: Callable[[str], str]) -> None:
    """Every kernel that is built from now on has its OpenCL C changed so."""
    tvm.register_global_func("tvm_callback_opencl_postproc", lambda code, target: fault(code), override=True)


def watched(
    folder: Path, module: str, *arguments: str, flags: Sequence[str] = EVERYTHING
) -> tuple[subprocess.CompletedProcess[str], str]:
    """`python -m module arguments` in a process of its own, and what Oclgrind had to say; `folder` is scratch."""
    log = folder / "oclgrind.log"
    (folder / "oclgrind.icd").write_text(f"{LIBRARY}\n")
    command = ["oclgrind", *flags, "--log", str(log), sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "OCL_ICD_VENDORS": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=600, capture_output=True, text=True)
    return done, log.read_text() if log.exists() else ""
