"""How the plug-in behaves as a process starts and ends: versions, devices that are asked for, forks, exits."""

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
APART = """
sys.stdout.flush()
if os.fork() == 0:  # OpenCL is not loaded yet: what it is for this program is none of the next one's
    os.environ[{name!r}] = {value!r}
    exec({program!r})
    sys.stdout.flush()
    os._exit(0)
assert os.wait()[1] == 0
print("---", flush=True)
"""
OTHER_TVM = """
import mest_compiler.runtime.opencl.loading as module
from pathlib import Path
module.build = lambda: Path(os.environ["OLD"])
for attempt in (load, devices, lambda: tvm.opencl(0).exist, lambda: tvm.runtime.empty((1,), "float32", tvm.opencl(0))):
    try:
        attempt()
    except (DeviceError, RuntimeError) as error:
        print(error)
"""
NO_DEVICES = """
print(devices(), tvm.opencl(0).exist, tvm.opencl(0).max_threads_per_block)
try:
    load()
except DeviceError as error:
    print(error)
"""
CHOOSES_AND_ENDS = """
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


def run(program: str) -> str:
    """What a program of its own prints; it must end well."""
    done = subprocess.run([sys.executable, "-c", LOAD + program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Lines of three programs in processes of their own: the first two are forks of the last, which imports once."""
    folder, library = tmp_path_factory.mktemp("processes"), build().read_bytes()
    version = tvm.__version__.encode()
    assert library.count(version) == 1
    (folder / "old.so").write_bytes(library.replace(version, b"0.1.2".ljust(len(version), b"\0")))
    program = APART.format(name="OLD", value=str(folder / "old.so"), program=OTHER_TVM)
    program += APART.format(name="OCL_ICD_VENDORS", value=str(folder), program=NO_DEVICES)
    return [part.strip().splitlines() for part in run(program + CHOOSES_AND_ENDS).split("---\n")]


def test_a_plug_in_of_another_tvm_is_a_sentence(said: list[list[str]]) -> None:
    sentence = f"compiled for TVM 0.1.2 and TVM {tvm.__version__} runs"
    assert "\n".join(said[0]).count(sentence) == 4


def test_a_machine_without_devices(said: list[list[str]]) -> None:
    assert said[1][0] == "[] False None"
    assert said[1][1].startswith("No OpenCL platform has a device here: install a driver")


def test_the_device_is_chosen_by_name_or_index(said: list[list[str]]) -> None:
    for line, asked in zip(said[2], ("no such/device", "1000", "no such"), strict=False):
        assert line.startswith(f"No OpenCL device fits MEST_OPENCL_DEVICE={asked}: there are 0 ")
    assert said[2][3] == "got True"


def test_the_end_of_a_process_and_its_forks(said: list[list[str]]) -> None:
    assert said[2][4].startswith("OpenCL was used before this process was forked")
    assert said[2][5:] == ["0"]


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
