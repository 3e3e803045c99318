"""Loads the OpenCL plug-in into this process, and asks it about devices, memory and times."""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tvm

from mest_compiler.errors import DeviceError

from .compiling import build

_lock = threading.Lock()
_loaded: list[ctypes.CDLL] = []


def load() -> None:
    """Gives TVM the device "opencl"; builds the plug-in first if need be. Calling it again does nothing.

    Raises DeviceError without what `build` needs, without an OpenCL driver, without the device that MEST_OPENCL_DEVICE
    asks for, and for a library that another TVM than this one was compiled with.
    """
    device()


def device() -> dict[str, Any]:
    """The device that TVM's `opencl(0)` is, as `devices` describes it; raises as `load` does."""
    load_library()
    return json.loads(call("mest.opencl.device", 0))


def devices() -> list[dict[str, Any]]:
    """All devices of all OpenCL platforms, in the order of their indices: name, limits, extensions.

    Empty where no platform has a device; raises DeviceError without libOpenCL.
    """
    load_library()
    return json.loads(call("mest.opencl.devices"))


def load_library() -> None:
    """Loads the plug-in, whether or not OpenCL has a device here."""
    with _lock:
        if tvm.get_global_func("mest.opencl.problem", allow_missing=True) is None:
            _open()
        problem = call("mest.opencl.problem")
        if problem:
            raise DeviceError(problem)


def memory(device: int = 0) -> dict[str, int]:
    """Bytes of buffers on a device: `now`, `peak`, `pooled` (unused workspaces), and the number of `buffers`."""
    load()
    return json.loads(call("mest.opencl.memory", device))


@contextmanager
def profile(device: int = 0) -> Iterator[dict[str, Any]]:
    """Takes the device time of every command; the dictionary is filled when the block is left.

    `ms` and `count` of all commands, `span_ms` from the first one's start to the last one's end, `commands`: count and
    ms by kernel name and kind of copy.
    """
    load()
    times: dict[str, Any] = {}
    call("mest.opencl.profile_start", device)
    try:
        yield times
    finally:
        times.update(json.loads(call("mest.opencl.profile_stop", device)))


def call(name: str, *arguments: int) -> Any:
    """Calls one of the plug-in's functions; its sentence becomes a DeviceError."""
    try:
        return tvm.get_global_func(name)(*arguments)
    except RuntimeError as error:
        raise DeviceError(str(error)) from None


def _open() -> None:
    library = build()
    try:
        _loaded.append(ctypes.CDLL(str(library)))
    except OSError as error:
        raise DeviceError(f"The OpenCL plug-in {library} cannot be loaded: {error}.") from None
    if tvm.get_global_func("mest.opencl.problem", allow_missing=True) is None:
        raise DeviceError(f"The OpenCL plug-in {library} did not register itself with TVM: build it again.")
