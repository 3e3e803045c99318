"""Where kernels run, as far as their callers need it: this process, or a `remote.connection.Connection`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import tvm

from mest_compiler.devices import Device
from mest_compiler.errors import DeviceError

from .local_device import local_device


class KernelHost(Protocol):
    """What loads a library and has a device to run it on."""

    def load(self, library: bytes) -> tvm.runtime.Module:
        """The library's module, loaded there."""
        ...

    def device(self, kind: str) -> tvm.runtime.Device:
        """The device of this kind there."""
        ...

    def during(self, what: str) -> AbstractContextManager[None]:
        """What is asked for within is called `what` in sentences."""
        ...


class StepHost(KernelHost, Protocol):
    """One that a whole training step is sent to."""

    def llvm(self) -> tuple[str, str] | None:
        """LLVM's triple and name of the CPU there; None: it has no compiler that could say."""
        ...


class LocalHost:
    """This process, with the device of a profile."""

    def __init__(self, profile: Device) -> None:
        self._profile = profile

    def load(self, library: bytes) -> tvm.runtime.Module:
        """The library's module; once it is loaded, its file is not needed."""
        with tempfile.TemporaryDirectory(prefix="mest-library-") as folder:
            path = Path(folder, "library.so")
            path.write_bytes(library)
            return tvm.runtime.load_module(str(path))

    def device(self, kind: str) -> tvm.runtime.Device:
        """The profile's device, which is of this kind."""
        return local_device(self._profile)

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Errors of TVM as ours."""
        try:
            yield
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1:]
            said = last[0] if last else type(error).__name__
            raise DeviceError(f"The device {self._profile.name} failed during {what}: {said}") from error
