"""How each kernel is computed on each kind of device: a package a kind, whose `Backend` says what else differs."""

from __future__ import annotations

from types import ModuleType

from mest_compiler.devices import Device

from .backend import Backend
from .cpu.backend import CpuBackend
from .opencl.backend import OpenClBackend

BACKENDS: dict[str, Backend] = {one.kind: one for one in (CpuBackend(), OpenClBackend())}


def backend_of(device: Device) -> Backend:
    """What the compiler has to know of a device's kind."""
    return BACKENDS[device.kind]


def generators(device: Device) -> ModuleType:
    """The package of generators for a device's kind."""
    return backend_of(device).generators


__all__ = ["BACKENDS", "Backend", "backend_of", "generators"]
