"""Where the tensors of a device profile live on this machine, ready to compute there."""

from __future__ import annotations

import tvm

from mest_compiler.devices import Device
from mest_compiler.errors import DeviceError

from .device_runtimes import device_runtime


def local_device(device: Device) -> tvm.runtime.Device:
    """TVM's device for a profile, with its runtime loaded and the CPU's threads set.

    Raises:
        DeviceError: the profile is of another machine's device, or there is no such device here.
    """
    if not device.here:
        raise DeviceError(f"The device {device.name} is no part of this machine: reach it with --tracker and --key.")
    return device_runtime(device.kind).device(device)


def identified(device: Device) -> Device:
    """The profile with the name and driver of this machine's device; a CPU's profile, and another machine's, as it is.

    Raises:
        DeviceError: there is no such device here.
    """
    return device_runtime(device.kind).identified(device) if device.here else device
