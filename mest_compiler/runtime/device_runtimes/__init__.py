"""The run time of each kind of devices: a file a kind, and a line here."""

from __future__ import annotations

from mest_compiler.errors import DeviceError

from .base import DeviceRuntime
from .cpu import CpuRuntime
from .opencl import OpenClRuntime

RUNTIMES: dict[str, DeviceRuntime] = {one.kind: one for one in (OpenClRuntime(), CpuRuntime())}


def device_runtime(kind: str) -> DeviceRuntime:
    """The run time of a kind of devices.

    Raises:
        DeviceError: there is none, as for an artifact of a later version.
    """
    if kind not in RUNTIMES:
        raise DeviceError(f"Devices of the kind {kind!r} cannot be reached: it is {' or '.join(RUNTIMES)}.")
    return RUNTIMES[kind]


__all__ = ["RUNTIMES", "DeviceRuntime", "device_runtime"]
