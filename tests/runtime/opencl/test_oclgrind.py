"""The plug-in on Oclgrind, which checks every call and has a phone's limits, alone and beside another device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def vendors(tmp_path: Path) -> Path:
    """A folder that announces Oclgrind to OpenCL's loader."""
    library = next(Path("/usr/lib").rglob("liboclgrind-rt-icd.so"), None)
    assert library is not None, "Oclgrind is not here: install it (on Debian the package oclgrind)"
    (tmp_path / "oclgrind.icd").write_text(str(library))
    return tmp_path


def run(arguments: list[str], vendors: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with these vendors only; Oclgrind says what it finds on standard error."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[3],
        env={
            **os.environ, "OCL_ICD_VENDORS": str(vendors), "OCLGRIND_CHECK_API": "1", "OCLGRIND_DATA_RACES": "1",
            **environment,
        },
    )  # fmt: skip


LEFT_OUT = ("too_large", "does_not_compile", "out_of_memory", "threads")
"""Errors that are meant, which it reports as what they are; and it is not safe for several threads."""


def test_launches_and_buffers(vendors: Path) -> None:
    tests = [str(Path(__file__).with_name(name)) for name in ("test_launch.py", "test_buffers.py", "test_modules.py")]
    done = run(["-m", "pytest", "-q", "-s", *tests, "-k", " and ".join(f"not {name}" for name in LEFT_OUT)], vendors)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Oclgrind" not in done.stdout + done.stderr, done.stdout + done.stderr


def test_errors_stay_sentences(vendors: Path) -> None:
    test = str(Path(__file__).with_name("test_launch.py"))
    done = run(["-m", "pytest", "-q", test, "-k", "too_large or does_not_compile"], vendors)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr


PROGRAM = """
import numpy as np, tvm
from mest_compiler.runtime.opencl import devices, load, memory
load()
first, second = tvm.opencl(0), tvm.opencl(1)
assert first.device_name != second.device_name
assert {first.device_name, second.device_name} == {device["name"] for device in devices()}
x = np.arange(100, dtype="float32")
a, b = tvm.runtime.tensor(x, first), tvm.runtime.tensor(np.zeros(100, "float32"), second)
a._create_view((10,), "float32", 40).copyto(b._create_view((10,), "float32", 80))
assert (b.numpy()[20:30] == x[10:20]).all() and b.numpy()[:20].max() == 0
assert memory(0)["now"] == memory(1)["now"] == 400
print("both")
"""


def test_two_devices(vendors: Path) -> None:
    (vendors / "pocl.icd").write_text("libpocl.so.2")
    done = run(["-c", PROGRAM], vendors)
    assert done.stdout == "both\n", done.stderr
