"""Compiles the OpenCL plug-in: the C++ of this folder against the headers that TVM's wheel brings.

TVM's C++ interface belongs to one release, so the library's name says what it was made from, and another TVM or
other sources get a library of their own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tvm
import tvm_ffi.libinfo
from tvm import libinfo

from mest_compiler import caching
from mest_compiler.errors import DeviceError
from mest_compiler.files import write_bytes

COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
LINES = 5
"""Of a compiler's complaint that an error quotes."""
HERE = Path(__file__).parent


def build(force: bool = False) -> Path:
    """The plug-in's library, compiled (about 20 seconds) unless it is there already or `force` asks for it.

    It lies beside the sources, or in the user's cache folder where that cannot be written. Raises DeviceError without a
    C++ compiler, without OpenCL's headers, or where neither folder can be written.
    """
    compiler = _compiler()
    name = f"libmest_opencl-{_key(compiler)}.so"
    folders = [folder for folder in (HERE, caching.folder("opencl")) if folder is not None]
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is not None and not force:
        return found
    with tempfile.TemporaryDirectory(prefix="mest-build-") as place:
        library = compile_library(Path(place, name), compiler, tvm.__version__).read_bytes()
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / name, library)
        except OSError:
            continue
        return folder / name
    raise DeviceError(
        f"The OpenCL plug-in cannot be stored in {' or in '.join(map(str, folders))}: make one of them writable, or "
        f"name a folder that is in {caching.FOLDER}."
    )


def compile_library(to: Path, compiler: str, version: str, libraries: Sequence[Path] = ()) -> Path:
    """Compiles the plug-in for a TVM version into a file, and returns it; raises DeviceError with the complaint.

    libraries: libtvm_runtime and libtvm_ffi of another processor, for a compiler that compiles for it; none: those of
    the installed wheel.
    """
    include = [libinfo.find_include_path(), *tvm_ffi.libinfo.include_paths()]
    libraries = libraries or (Path(libinfo.find_libtvm_runtime()), Path(tvm_ffi.libinfo.find_libtvm_ffi()))
    command = [
        compiler, *FLAGS, f'-DMEST_TVM_VERSION="{version}"', *(f"-isystem{folder}" for folder in include),
        *map(str, sorted(HERE.glob("*.cc"))), "-o", str(to), *map(str, libraries), "-ldl", "-lpthread",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=to.parent)
    if done.returncode == 0:
        return to
    if "CL/cl.h" in done.stderr:
        raise DeviceError(
            "The OpenCL plug-in needs OpenCL's C headers to be compiled, and CL/cl.h is not there: install them (on "
            "Debian the package opencl-headers)."
        )
    raise DeviceError(f"{compiler} could not compile the OpenCL plug-in in {HERE}: {_complaint(done.stderr)}")


def _compiler() -> str:
    """The user's C++ compiler."""
    asked = os.environ.get("CXX")
    for name in (asked,) if asked else COMPILERS:
        if shutil.which(name):
            return name
    raise DeviceError(
        f"The OpenCL plug-in needs a C++ compiler, and {asked or ', '.join(COMPILERS)} is not there: install one (on "
        "Debian the package g++), or name yours in CXX."
    )


def _key(compiler: str) -> str:
    """A digest of everything the library depends on."""
    digest = hashlib.sha256("\0".join((tvm.__version__, tvm_ffi.__version__, compiler, *FLAGS)).encode())
    for path in sorted([*HERE.glob("*.cc"), *HERE.glob("*.h")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _complaint(text: str) -> str:
    """First lines of a compiler's output that speak of errors."""
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if "error" in line] or text.splitlines()
    return "; ".join(lines[:LINES]) or "it said nothing"
