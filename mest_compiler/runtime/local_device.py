"""Where the tensors of a device profile live on this machine, ready to compute there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tvm

from mest_compiler.devices import Device
from mest_compiler.errors import DeviceError

ONE_THREAD_A_CORE = 1  # TVM's affinity mode "big": workers stay on the fastest cores


def local_device(device: Device) -> tvm.runtime.Device:
    """TVM's device for a profile, with its runtime loaded and the CPU's threads set.

    Raises:
        DeviceError: the profile is of another machine's device, or there is no such device here.
    """
    if device.kind == "cpu":
        tvm.get_global_func("runtime.config_threadpool")(ONE_THREAD_A_CORE, device.threads)
        return tvm.cpu()
    if not device.here:
        raise DeviceError(f"The device {device.name} is no part of this machine: reach it with --tracker and --key.")
    from . import opencl

    opencl.load()
    return tvm.opencl()


def identified(device: Device) -> Device:
    """The profile with the name and driver of this machine's device; a CPU's profile, and another machine's, as it is.

    Raises:
        DeviceError: there is no such device here.
    """
    if device.kind == "cpu" or not device.here:
        return device
    from . import opencl

    return replace(device, hardware=hardware_of(opencl.device()))


def hardware_of(described: Mapping[str, Any]) -> str:
    """An OpenCL device as `opencl.devices` describes it, in one line: what its times depend on."""
    return f"{described['platform']}, {described['name']}, driver {described['driver']}"
