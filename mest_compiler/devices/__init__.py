"""Device profiles: what a kernel generator and the runtime need to know of a device."""

from __future__ import annotations

from mest_compiler.errors import DeviceError

from .cpu import CpuProfile, available_cores, local_cpu
from .opencl import OpenClProfile

Device = CpuProfile | OpenClProfile

NAMES = ("cpu", "opencl")


def get_device(name: str, threads: int | None = None) -> Device:
    """Profile of a device by name; raises DeviceError for an unknown one."""
    if name not in NAMES:
        raise DeviceError(f"There is no device {name!r}: known devices are {', '.join(NAMES)}.")
    return local_cpu(threads) if name == "cpu" else OpenClProfile(name)


__all__ = ["NAMES", "CpuProfile", "Device", "OpenClProfile", "available_cores", "get_device", "local_cpu"]
