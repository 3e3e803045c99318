"""What an RPC server's OpenCL says about itself: through our plug-in all of it, through TVM's own runtime (a phone's
tvm_rpc) what TVM asks every device."""

from __future__ import annotations

import json
from typing import Any

from mest_compiler.errors import DeviceError

from .base import Server

DEVICES, DEVICE = "mest.opencl.devices", "mest.opencl.device"
"""The plug-in's functions that list them, and that describe the one in use."""


def opencl_devices(there: Server) -> list[dict[str, Any]]:
    """The OpenCL devices of a server; empty where it has none. Numbers that cannot be asked for are 0."""
    try:
        device = there.device("opencl")
    except DeviceError:
        if not there.alive:
            raise
        return []
    with there.during("the list of OpenCL devices"):
        if there.has(DEVICES):
            return json.loads(there.session.get_function(DEVICES)())
        clock_khz = device.max_clock_rate or 0
        return [
            {
                "index": 0, "platform": "OpenCL", "name": device.device_name or "unknown", "vendor": "", "type": "gpu",
                "version": device.api_version or "", "driver": device.driver_version or "",
                "compute_units": device.multi_processor_count or 0, "clock_mhz": clock_khz // 1000,
                "max_work_group": device.max_threads_per_block or 0,
                "local_bytes": device.max_shared_memory_per_block or 0,
                "global_bytes": device.total_global_memory or 0, "max_allocation_bytes": 0, "cache_bytes": 0,
                "fp64": False, "fp16": False, "extensions": [],
            }
        ]  # fmt: skip


def opencl_device(there: Server) -> dict[str, Any]:
    """The OpenCL device that a server computes on, as `opencl_devices` describes it.

    Raises:
        DeviceError: it has none.
    """
    there.device("opencl")
    if there.has(DEVICE):
        with there.during("the description of the OpenCL device"):
            return json.loads(there.session.get_function(DEVICE)(0))
    return opencl_devices(there)[0]
