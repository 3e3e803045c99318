"""OpenCL devices at run time, through the plug-in of `runtime.opencl`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tvm

from mest_compiler.devices import Device
from mest_compiler.runtime import opencl

from .base import Server
from .opencl_facts import opencl_device


class OpenClRuntime:
    """See `DeviceRuntime`."""

    kind = "opencl"
    threaded = False
    synchronous = False
    probed = True
    clock = ("mest.opencl.profile_start", "mest.opencl.profile_stop")

    def device(self, profile: Device) -> tvm.runtime.Device:
        opencl.load()
        return tvm.opencl()

    def open(self, wanted: Mapping[str, Any], threads: int | None) -> tuple[int, tvm.runtime.Device]:
        opencl.load()
        return wanted["threads"], tvm.opencl()

    def identified(self, profile: Device, there: Server | None = None) -> Device:
        found = opencl.device() if there is None else opencl_device(there)
        return replace(profile, hardware=f"{found['platform']}, {found['name']}, driver {found['driver']}")

    def peak_bytes(self) -> int | None:
        return opencl.memory()["peak"]

    def plugin(self) -> Path:
        return Path(opencl.build())
