"""What the compiler has to know of a kind of devices; a device's own numbers stand in its profile (see `devices`), and
what the run time has to know in `runtime.device_runtimes`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import tvm

from mest_compiler.devices import Device

from .generator import Generator


@dataclass(frozen=True)
class Limits:
    """Of a kernel's work-group: most work-items, and bytes of local memory."""

    work_items: int
    local_bytes: int


class Backend(Protocol):
    """One kind of devices, whose generators stand in the package around it.

    kind: as in the profiles. generators: the package with the modules `elementwise`, `normalise`, `update`, ..., which
    have the same functions for each kind. families: generators of the kernels of layers, by the names of the families
    (see `kernels.families`). rewrites: names of the step's options (see `passes.options`) that
    there are kernels for. storage: dtypes that activations may be stored in. noalias: whether kernels promise that
    their buffers do not alias. ordered_loops: whether matrix products left in Relax get the order of their loops; else
    `generators.plain` schedules them. tvm_schedules: whether TVM has schedules of its own for a whole dense step.
    """

    kind: str
    generators: ModuleType
    families: Mapping[str, Generator]
    rewrites: frozenset[str]
    storage: tuple[str, ...]
    noalias: bool
    ordered_loops: bool
    tvm_schedules: bool

    def limits(self, device: Device) -> Limits | None:
        """What a kernel must keep to on a device; None: there is nothing that it could exceed."""
        ...

    def sources(self, code: tvm.runtime.Module) -> dict[str, str]:
        """Name of a file -> source of each kernel of a built module, in the language that a driver gets; empty where
        that is machine code."""
        ...
