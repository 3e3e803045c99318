"""From a built step to the bytes of a shared library, for this machine or for a phone."""

from __future__ import annotations

import tempfile
from pathlib import Path

import tvm

from .devices import Device
from .errors import DeviceError
from .phone_linking import NDK, phone_linker


def library_bytes(executable: tvm.relax.VMExecutable, device: Device) -> bytes:
    """The step's shared library.

    Raises:
        DeviceError: no compiler or linker for the device's host, or it failed.
    """
    host = device.host
    linker = None if host is None else phone_linker(host)
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
