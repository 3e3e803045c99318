"""What an OpenCL device can do, measured with small kernels: the roofline beside which benches stand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

import numpy as np
import tvm

from mest_compiler.devices import OpenClProfile
from mest_compiler.errors import DeviceError
from mest_compiler.linking import library_bytes
from mest_compiler.runtime.hosts import KernelHost

from . import probe_kernels
from .probe_kernels import FEW, GROUP, MANY, Kernel

REPEATS = 9
RESOLUTION_REPEATS = 200
"""Times of one small kernel, among which the smallest step is looked for."""
NS = 1e9

Say = Callable[[str], None]


def probe(profile: OpenClProfile, host: KernelHost, say: Say = lambda sentence: None) -> dict[str, Any]:
    """Measures a device of this profile.

    Returns what `devices.measured.save` keeps: `numbers` by name, each with `about`, `value`, `unit` and, where a
    kernel was timed, `ms` (the least of several: what disturbs only adds).

    Raises:
        DeviceError: no such device, or it fails.
    """
    say("compiling the kernels")
    library = library_bytes(probe_kernels.built(profile), profile)
    device, module = host.device("opencl"), host.load(library)
    numbers: dict[str, dict[str, Any]] = {}
    for kernel in probe_kernels.kernels():
        say(kernel.about)
        with host.during(f"the kernel {kernel.name!r}"):
            numbers[kernel.name] = _measured(kernel, module, device)
    say("launches")
    with host.during("launches in a row"):
        numbers |= _launch_numbers(module, device)
    return {
        "device": profile.name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "tvm": tvm.__version__,
        "opencl": _title(device),
        "numbers": numbers,
    }


def check(profile: OpenClProfile, host: KernelHost) -> None:
    """Runs one tiny kernel and compares; raises DeviceError where it cannot run or its numbers are wrong."""
    device = host.device("opencl")
    module = host.load(library_bytes(probe_kernels.built_check(profile), profile))
    with host.during("a tiny kernel"):
        given = np.arange(GROUP, dtype=np.float32) - 7
        x, y = tvm.runtime.tensor(given, device), tvm.runtime.tensor(np.zeros_like(given), device)
        module[probe_kernels.CHECK](x, y)
        if not np.array_equal(y.numpy(), given * 3 + 1):
            raise DeviceError(f"A tiny kernel computes wrong numbers on {profile.name}: its driver is broken.")


def _title(device: tvm.runtime.Device) -> str:
    return str(device.device_name or "unknown")


def _measured(kernel: Kernel, module: tvm.runtime.Module, device: tvm.runtime.Device) -> dict[str, Any]:
    arguments = [tvm.runtime.tensor(np.ones(size, np.float32), device) for size in kernel.sizes]
    seconds = _times(module, kernel.name, device, REPEATS, arguments)
    least = min(seconds)
    return {"about": kernel.about, "value": kernel.work / least / NS, "unit": kernel.unit, "ms": least * 1e3}


def _launch_numbers(module: tvm.runtime.Module, device: tvm.runtime.Device) -> dict[str, dict[str, Any]]:
    arguments = [tvm.runtime.tensor(np.ones(GROUP, np.float32), device) for _ in range(2)]
    walls: Mapping[int, list[float]] = {FEW: [], MANY: []}
    for _ in range(REPEATS):
        for count, found in walls.items():
            run = module[f"launch_{count}"]
            device.sync()
            start = time.perf_counter()
            run(*arguments)
            device.sync()
            found.append(time.perf_counter() - start)
    launch = (min(walls[MANY]) - min(walls[FEW])) / (MANY - FEW)
    events = sorted(set(_times(module, f"launch_{FEW}", device, RESOLUTION_REPEATS, arguments)))
    steps = [after - before for before, after in pairwise(events)]
    return {
        "launch": {"about": "a launch in a row of launches, wall clock", "value": launch * 1e6, "unit": "us"},
        "launch_device": {
            "about": "an all but empty kernel, device time", "value": events[0] / FEW * 1e6, "unit": "us",
        },
        "event_step": {
            "about": "smallest step of device times", "value": min(steps, default=0.0) * NS, "unit": "ns",
        },
    }  # fmt: skip


def _times(
    module: tvm.runtime.Module, name: str, device: tvm.runtime.Device, repeat: int, arguments: list[Any]
) -> list[float]:
    """Seconds of each run, by the device's own clock where its runtime has one."""
    module[name](*arguments)  # a first run compiles the kernel
    device.sync()
    return [float(s) for s in module.time_evaluator(name, device, number=1, repeat=repeat)(*arguments).results]
