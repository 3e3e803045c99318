"""What the run time has to know of a kind of devices; what the compiler has to, `schedules.backend` says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import tvm

from mest_compiler.devices import Device


class Server(Protocol):
    """An RPC server, as far as it is asked what it has; see `remote.connection`."""

    session: tvm.rpc.RPCSession
    alive: bool

    def device(self, kind: str) -> tvm.runtime.Device:
        """Its device of a kind; DeviceError: it has none."""
        ...

    def has(self, name: str) -> bool:
        """Whether it has a global function."""
        ...

    def during(self, what: str) -> AbstractContextManager[None]:
        """What is asked of it inside; DeviceLostError, naming it, where no answer comes."""
        ...


class DeviceRuntime(Protocol):
    """How devices of one kind are reached, here and at RPC servers.

    kind: as in profiles and manifests, and TVM's name of the device. threaded: whether kernels run on the CPU's
    threads, so that it matters how many are asked for. synchronous: whether a kernel is done when its call returns, so
    that the wall clock around the call is the kernel's time. probed: whether `mest devices probe` and `doctor` have
    kernels for them. clock: names of the runtime's functions that start and stop the timing of each kernel by the
    device's own clock; None: there are none.
    """

    kind: str
    threaded: bool
    synchronous: bool
    probed: bool
    clock: tuple[str, str] | None

    def device(self, profile: Device) -> tvm.runtime.Device:
        """TVM's device of this machine for a profile, with its runtime loaded and threads set.

        Raises:
            DeviceError: there is none here.
        """
        ...

    def open(self, wanted: Mapping[str, Any], threads: int | None) -> tuple[int, tvm.runtime.Device]:
        """Threads and TVM's device of this machine for the "device" of an artifact's manifest; threads: None, or how
        many were asked for.

        Raises:
            DeviceError: there is none here, or fewer threads.
        """
        ...

    def identified(self, profile: Device, there: Server | None = None) -> Device:
        """The profile with the hardware that computes here, or at a server.

        Raises:
            DeviceError: there is none.
        """
        ...

    def peak_bytes(self) -> int | None:
        """The most bytes that buffers took so far in this process; None: they come from the C allocator."""
        ...

    def plugin(self) -> Path | None:
        """The library that gives a server this runtime; None: every server has it."""
        ...
