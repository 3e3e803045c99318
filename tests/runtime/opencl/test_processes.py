"""How the plug-in behaves as a process starts and ends: versions, devices that are asked for, forks, exits."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tvm

from mest_compiler.errors import DeviceError
from mest_compiler.runtime.opencl import build

LOAD = """
import gc, os, sys
import numpy as np, tvm
from mest_compiler.errors import DeviceError
from mest_compiler.runtime.opencl import devices, load
"""


def run(program: str, **environment: str) -> str:
    """What a program of its own prints; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD + program],
        capture_output=True, text=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plug_in_of_another_tvm_is_a_sentence(tmp_path: Path) -> None:
    library = build().read_bytes()
    version = tvm.__version__.encode()
    assert library.count(version) == 1
    (tmp_path / "old.so").write_bytes(library.replace(version, b"0.1.2".ljust(len(version), b"\0")))
    said = run(
        """
import mest_compiler.runtime.opencl.loading as module
from pathlib import Path
module.build = lambda: Path(os.environ["OLD"])
for attempt in (load, devices, lambda: tvm.opencl(0).exist, lambda: tvm.runtime.empty((1,), "float32", tvm.opencl(0))):
    try:
        attempt()
    except (DeviceError, RuntimeError) as error:
        print(error)
""",
        OLD=str(tmp_path / "old.so"),
    )
    sentence = f"compiled for TVM 0.1.2 and TVM {tvm.__version__} runs"
    assert said.count(sentence) == 4


def test_a_machine_without_devices(tmp_path: Path) -> None:
    said = run(
        """
print(devices(), tvm.opencl(0).exist, tvm.opencl(0).max_threads_per_block)
try:
    load()
except DeviceError as error:
    print(error)
""",
        OCL_ICD_VENDORS=str(tmp_path),
    )
    assert said.startswith("[] False None\nNo OpenCL platform has a device here: install a driver")


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """What a process prints that asks for devices, gets one, forks, and ends while copies are under way."""
    return run(
        """
known = devices()
name = known[-1]["platform"][:6].upper() + "/" + known[-1]["name"][2:9].lower()
for asked in ("no such/device", "1000", "no such", name):
    os.environ["MEST_OPENCL_DEVICE"] = asked
    try:
        load()
        print("got", tvm.opencl(0).device_name == known[-1]["name"])
    except DeviceError as error:
        print(error)
kept = [tvm.runtime.tensor(np.ones(1 << 20, "float32"), tvm.opencl(0)) for _ in range(3)]
kept.append(kept)  # freed by nobody but the end
sys.stdout.flush()
if os.fork() == 0:
    try:
        tvm.runtime.empty((1,), "float32", tvm.opencl(0))
    except RuntimeError as error:
        print(error, flush=True)
    sys.exit(0)
print(os.wait()[1])
for _ in range(50):
    kept[0].copyto(kept[1])  # still under way as the process ends
"""
    ).splitlines()


def test_the_device_is_chosen_by_name_or_index(lines: list[str]) -> None:
    for line, asked in zip(lines, ("no such/device", "1000", "no such"), strict=False):
        assert line.startswith(f"No OpenCL device fits MEST_OPENCL_DEVICE={asked}: there are 0 ")
    assert lines[3] == "got True"


def test_the_end_of_a_process_and_its_forks(lines: list[str]) -> None:
    assert lines[4].startswith("OpenCL was used before this process was forked")
    assert lines[5:] == ["0"]


def test_no_compiler_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match="needs a C\\+\\+ compiler, and no-such-compiler is not there"):
        build()


def test_no_headers_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "without-headers"
    compiler.write_text(f'#!/bin/sh\nexec {shutil.which("g++") or "c++"} -nostdinc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(
        DeviceError, match=r"CL/cl\.h is not there: install them \(on Debian the package opencl-headers\)"
    ):
        build()


@pytest.mark.slow
def test_build_again(opencl: tvm.runtime.Device) -> None:
    before = build().stat().st_mtime_ns
    assert build(force=True).stat().st_mtime_ns > before
    assert "[{" in run("load(); print(devices())")
