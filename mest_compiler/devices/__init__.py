"""Device profiles: what a kernel generator and the runtime need to know of a device."""

from __future__ import annotations

import difflib

from mest_compiler.errors import DeviceError

from . import profiles
from .cpu import CpuProfile, available_cores, local_cpu
from .opencl import OpenClProfile

Device = CpuProfile | OpenClProfile

NAMES = ("cpu", *profiles.names())
_CLOSE = 0.75  # of 1: so alike must two names be for a hint


def get_device(name: str, threads: int | None = None) -> Device:
    """Profile of a device by its name, or by the path of a YAML file that describes an OpenCL device.

    Raises:
        DeviceError: an unknown name, or a file that is no profile.
    """
    if name == "cpu":
        return local_cpu(threads)
    if name not in NAMES and not profiles.is_file(name):
        near = difflib.get_close_matches(name, NAMES, 1, _CLOSE)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise DeviceError(
            f"There is no device {name!r}: known devices are {', '.join(NAMES)}, and your own .yaml files{hint}"
        )
    return profiles.profile(name)


__all__ = ["NAMES", "CpuProfile", "Device", "OpenClProfile", "available_cores", "get_device", "local_cpu"]
