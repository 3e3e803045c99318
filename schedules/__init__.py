"""How each kernel is computed on each kind of device: a package a kind, with the same functions in each."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Protocol


class Kind(Protocol):
    """A device profile, as far as it says which generators are for it."""

    @property
    def kind(self) -> str:
        """ "cpu" or "opencl"."""
        ...


def generators(device: Kind) -> ModuleType:
    """The package of generators for a device's kind: its modules `choose`, `elementwise`, `normalise`, `update`, ...,
    and `REWRITES`, the names of the step's options that it has kernels for."""
    return import_module(f"{__name__}.{device.kind}")
