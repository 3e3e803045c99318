"""From a built step to the bytes of a shared library, for this machine or for a phone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import tvm

from .devices import Device
from .errors import DeviceError

NDK = "TVM_NDK_CC"
"""Environment variable of TVM: the NDK's compiler for the phone, such as aarch64-linux-android29-clang++."""
PHONE_PAGE = 16384  # bytes of a page of memory on newer Android phones; a library must not assume smaller ones


def library_bytes(executable: tvm.relax.VMExecutable, device: Device) -> bytes:
    """The step's shared library.

    Raises:
        DeviceError: no compiler or linker for the device's host, or it failed.
    """
    host = getattr(device, "host", None)
    linker = None if host is None else _phone_linker(host)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library.so"
        try:
            executable.export_library(str(path), fcompile=linker)
        except (RuntimeError, OSError, ValueError) as error:
            last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            needed = "a C++ compiler, such as g++" if host is None else f"ld.lld (Debian's package lld), or {NDK}"
            raise DeviceError(
                f"The kernels could not be linked ({last}): that takes {needed}, and some room in "
                f"{tempfile.gettempdir()}."
            ) from error
        return path.read_bytes()


def _phone_linker(host: str) -> Callable[[str, Sequence[str]], None]:
    """Links objects for another machine: with an NDK where there is one, else with ld.lld.

    The code needs nothing but what TVM's runtime on the phone gives it, so no sysroot is needed.
    """
    compiler = os.environ.get(NDK)
    if compiler:
        from tvm.support import ndk

        return ndk.create_shared
    linker = shutil.which("ld.lld")
    if linker is None:
        raise DeviceError(
            f"Code for {host} is linked with ld.lld, which is not there: install Debian's package lld, or set {NDK} to "
            "the compiler of an Android NDK."
        )

    def link(output: str, objects: Sequence[str] | str, options: Sequence[str] | None = None) -> None:
        files = [objects] if isinstance(objects, str) else list(objects)
        command = [linker, "-shared", "-z", f"max-page-size={PHONE_PAGE}", "-o", output, *files, *(options or ())]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)

    link.output_format = "so"
    link.get_target_triple = lambda: host
    return link
