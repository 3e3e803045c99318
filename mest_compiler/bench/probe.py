"""What an OpenCL device can do, measured with small kernels: the roofline beside which benches stand."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tvm

from mest_compiler.devices import OpenClProfile
from mest_compiler.errors import DeviceError
from mest_compiler.linking import library_bytes
from mest_compiler.runtime.local_device import local_device

from . import probe_kernels
from .probe_kernels import FEW, GROUP, MANY, Kernel

REPEATS = 9
RESOLUTION_REPEATS = 200
"""Times of one small kernel, among which the smallest step is looked for."""
NS = 1e9

Say = Callable[[str], None]


class Place(Protocol):
    """Where kernels run: see `runtime.remote.connection.Connection`, and `Here`."""

    def load(self, library: bytes) -> tvm.runtime.Module:
        """The library's module there."""
        ...

    def device(self, kind: str) -> tvm.runtime.Device:
        """The device there."""
        ...

    def during(self, what: str) -> AbstractContextManager[None]:
        """What errors in the context are about."""
        ...


def probe(profile: OpenClProfile, place: Place, say: Say = lambda sentence: None) -> dict[str, Any]:
    """Measures a device of this profile.

    Returns what `devices.measured.save` keeps: `numbers` by name, each with `about`, `value`, `unit` and, where a
    kernel was timed, `ms` (the least of several: what disturbs only adds).

    Raises:
        DeviceError: no such device, or it fails.
    """
    say("compiling the kernels")
    library = library_bytes(probe_kernels.built(profile), profile)
    device, module = place.device("opencl"), place.load(library)
    numbers: dict[str, dict[str, Any]] = {}
    for kernel in probe_kernels.kernels():
        say(kernel.about)
        with place.during(f"the kernel {kernel.name!r}"):
            numbers[kernel.name] = _measured(kernel, module, device)
    say("launches")
    with place.during("launches in a row"):
        numbers |= _launch_numbers(module, device)
    return {
        "device": profile.name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "tvm": tvm.__version__,
        "opencl": _title(device),
        "numbers": numbers,
    }


def check(profile: OpenClProfile, place: Place) -> None:
    """Runs one tiny kernel and compares; raises DeviceError where it cannot run or its numbers are wrong."""
    device = place.device("opencl")
    module = place.load(library_bytes(probe_kernels.built_check(profile), profile))
    with place.during("a tiny kernel"):
        given = np.arange(GROUP, dtype=np.float32) - 7
        x, y = tvm.runtime.tensor(given, device), tvm.runtime.tensor(np.zeros_like(given), device)
        module[probe_kernels.CHECK](x, y)
        if not np.array_equal(y.numpy(), given * 3 + 1):
            raise DeviceError(f"A tiny kernel computes wrong numbers on {profile.name}: its driver is broken.")


class Here:
    """This machine as a place."""

    def __init__(self, profile: OpenClProfile) -> None:
        self._profile = profile

    def load(self, library: bytes) -> tvm.runtime.Module:
        """The library's module, in this process."""
        self._folder = tempfile.TemporaryDirectory(prefix="mest-probe-")
        path = Path(self._folder.name) / "library.so"
        path.write_bytes(library)
        return tvm.runtime.load_module(str(path))

    def device(self, kind: str) -> tvm.runtime.Device:
        """The profile's device, which is of this kind."""
        return local_device(self._profile)

    def during(self, what: str) -> AbstractContextManager[None]:
        """Errors of TVM as ours."""
        return _during(what)


@contextmanager
def _during(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1:]
        raise DeviceError(f"OpenCL failed during {what}: {last[0] if last else type(error).__name__}") from error


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
