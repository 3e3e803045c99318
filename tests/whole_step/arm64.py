"""An arm64 machine without one: Debian's arm64 packages and TVM's arm64 wheels in a cache folder, run by qemu-user.

Nothing is installed and no root is needed: apt-get resolves and downloads with a state of its own.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
import tvm

from mest_compiler.runtime.opencl.compiling import compile_library
from mest_compiler.runtime.remote.where import LOOPBACK

PACKAGES = ("python3", "libstdc++6", "zlib1g", "ocl-icd-libopencl1", "pocl-opencl-icd")
WHEELS = (
    f"apache-tvm=={version('apache-tvm')}", f"apache-tvm-ffi=={version('apache-tvm-ffi')}", "numpy", "ml_dtypes",
    "psutil", "cloudpickle", "tornado", "typing-extensions",
)  # fmt: skip
WHEELS_FOR = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
TOOLS = {
    "qemu-aarch64": "qemu-user", "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "apt-get": "apt", "dpkg-deb": "dpkg",
}  # fmt: skip
LIBRARIES = Path("usr/lib/aarch64-linux-gnu")
APT = """APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Debug::NoLocking "true";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
"""
"""A machine on which no package is installed, so that all that a package needs is fetched with it."""
PYTHON = """#!/bin/sh
export PYTHONHOME={root}/usr PYTHONPATH={root}/site OCL_ICD_VENDORS={root}/icd PATH={root}/tools:"$PATH"
export G_SLICE=always-malloc
exec qemu-aarch64 -0 "$0" -E LD_LIBRARY_PATH={root}/{libraries}:{root}/lib/aarch64-linux-gnu -L {root} {python} "$@"
"""
"""The arm64 Python; -0 lets it start itself again by this script. Libraries have their real paths: what they look for
beside themselves is not redirected by -L in every system call. G_SLICE: a fork of a program with threads, as the server
forks for each session, now and then leaves a lock of GLib's allocator taken in qemu for ever."""
LINKER = """#!/bin/sh
exec aarch64-linux-gnu-ld "$@" {folders}
"""
"""PoCL links each kernel with the ld in PATH; qemu starts it as the program of this machine that it is."""
START_S = 300.0


@dataclass(frozen=True)
class Machine:
    """Its folder: `python` starts the arm64 Python, `plugin` is the OpenCL plug-in for it."""

    root: Path

    @property
    def python(self) -> Path:
        return self.root / "python"

    @property
    def plugin(self) -> Path:
        return self.root / "libmest_opencl.so"


def machine() -> Machine:
    """Makes it (200 MB to fetch, 900 MB on disk) unless the cache has it; skips the test where that cannot be."""
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"an arm64 machine needs the packages {' '.join(missing)}")
    key = hashlib.sha256("\0".join((*PACKAGES, *WHEELS, PYTHON, LINKER)).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mest_compiler")
    root = cache / f"arm64-{key}"
    if not root.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".arm64-") as folder:
            whole = Path(folder, "root")
            _install_packages(whole, Path(folder))
            _install_wheels(whole, Path(folder))
            with suppress(OSError):  # another process has made it meanwhile
                whole.rename(root)
    made = Machine(root)
    _write_tools(made)
    site = root / "site"
    libraries = (site / "tvm/lib/libtvm_runtime.so", site / "tvm_ffi/lib/libtvm_ffi.so")
    compile_library(made.plugin, "aarch64-linux-gnu-g++", tvm.__version__, libraries)
    return made


def _install_packages(root: Path, folder: Path) -> None:
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "apt.conf").write_text(APT.format(folder=folder))
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    for command in ("update", "install --download-only --yes"):
        packages = PACKAGES if "install" in command else ()
        _run_or_skip(["apt-get", "-q", *command.split(), *packages], environment)
    for package in sorted((folder / "cache/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)


def _install_wheels(root: Path, folder: Path) -> None:
    python = (root / "usr/bin/python3").readlink().name.removeprefix("python")
    platforms = [word for platform in WHEELS_FOR for word in ("--platform", platform)]
    _run_or_skip([
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", *platforms,
        "--python-version", python, "--dest", str(folder / "wheels"), *WHEELS,
    ])  # fmt: skip
    for wheel in (folder / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as files:
            files.extractall(root / "site")


def _run_or_skip(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"what an arm64 machine is made of cannot be fetched: {done.stderr.strip().splitlines()[-1]}")


def _write_tools(made: Machine) -> None:
    root, driver = made.root, sorted((made.root / LIBRARIES).glob("libpocl.so.*"))[-1]
    for name in ("icd", "tools"):
        (root / name).mkdir(exist_ok=True)
    (root / "icd/pocl.icd").write_text(f"{driver}\n")
    asked = [["aarch64-linux-gnu-g++", f"-print-file-name={name}"] for name in ("libgcc.a", "libc.so")]
    found = [Path(subprocess.run(one, capture_output=True, text=True, check=True).stdout.strip()) for one in asked]
    folders = " ".join(shlex.quote(f"-L{path.parent.resolve()}") for path in found)
    _script(root / "tools/ld", LINKER.format(folders=folders))
    python = root / "usr/bin" / (root / "usr/bin/python3").readlink()
    _script(
        made.python, PYTHON.format(root=shlex.quote(str(root)), libraries=LIBRARIES, python=shlex.quote(str(python)))
    )


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@contextmanager
def serving(made: Machine, folder: Path) -> Iterator[str]:
    """TVM's own server there, with the plug-in, that has compiled no kernel yet; gives HOST:PORT."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        port = one.getsockname()[1]
    command = [
        str(made.python), "-m", "tvm.exec.rpc_server", "--host", LOOPBACK, "--port", str(port), "--port-end",
        str(port + 1), "--load-library", str(made.plugin),
    ]  # fmt: skip
    environment = {**os.environ, "POCL_CACHE_DIR": str(folder / "pocl"), "MEST_CACHE": ""}
    (folder / "pocl").mkdir()
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            deadline = time.monotonic() + START_S
            while "bind to" not in (folder / "log").read_text():
                assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.5)
            yield f"{LOOPBACK}:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
