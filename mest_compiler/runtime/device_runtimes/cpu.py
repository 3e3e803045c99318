"""This machine's CPU at run time: TVM's own runtime and its pool of threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm

from mest_compiler.devices import Device, available_cores, local_cpu
from mest_compiler.errors import DeviceError

from .base import Server

ONE_THREAD_A_CORE = 1  # TVM's affinity mode "big": workers stay on the fastest cores


class CpuRuntime:
    """See `DeviceRuntime`."""

    kind = "cpu"
    threaded = True
    synchronous = True
    probed = False
    clock = None

    def device(self, profile: Device) -> tvm.runtime.Device:
        return _with_threads(profile.threads)

    def open(self, wanted: Mapping[str, Any], threads: int | None) -> tuple[int, tvm.runtime.Device]:
        threads = min(wanted["threads"], available_cores()) if threads is None else threads
        local_cpu(threads)  # raises where there are fewer cores
        device = _with_threads(threads)
        started = int(tvm.get_global_func("runtime.NumThreads")())
        if started < threads:
            raise DeviceError(
                f"{threads} threads were asked for, and TVM's thread pool of this process has {started}: set "
                f"TVM_NUM_THREADS={threads} before it starts."
            )
        return threads, device

    def identified(self, profile: Device, there: Server | None = None) -> Device:
        return profile  # it names the hardware itself

    def peak_bytes(self) -> int | None:
        return None

    def plugin(self) -> None:
        return None


def _with_threads(threads: int) -> tvm.runtime.Device:
    tvm.get_global_func("runtime.config_threadpool")(ONE_THREAD_A_CORE, threads)
    return tvm.cpu()
