"""Libraries of compiled steps, kept in a folder of one run of the tests: the same step is not compiled twice.

The key holds all that the library is made of: the planned module, word for word, the device with all its settings, and
TVM's version; the sources do not change meanwhile. On a hit the checks of `passes.pipeline.build` are not run again:
they passed, in this run, on this module.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import pytest
import tvm

from mest_compiler import caching
from mest_compiler import compile as compiler
from mest_compiler.devices import Device
from mest_compiler.files import write_bytes
from mest_compiler.linking import library_bytes
from mest_compiler.passes.pipeline import build
from mest_compiler.passes.step_program import StepProgram
from mest_compiler.phone_linking import NDK


class _Step:
    """What `build` returns, built when somebody looks into it."""

    def __init__(self, planned: StepProgram, device: Device) -> None:
        self.planned, self.device = planned, device

    @cached_property
    def executable(self) -> tvm.relax.VMExecutable:
        return build(self.planned, self.device)

    @property
    def mod(self) -> tvm.runtime.Module:
        return self.executable.mod

    def key(self) -> str:
        return caching.key(
            module=tvm.ir.save_json(self.planned.module), device=repr(self.device), target=str(self.device.target),
            pipeline=str(self.device.pipeline), left_out=sorted(self.device.needless_passes), tvm=tvm.__version__,
            ndk=os.environ.get(NDK, ""),
        )  # fmt: skip


def keep_libraries(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """From now on `compile_step` takes a library from this folder, where it is there, and leaves it there."""

    def kept(step: _Step, device: Device) -> bytes:
        path = folder / f"{step.key()}.so"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, library_bytes(step.executable, device))  # whole, whichever worker is the first
        return path.read_bytes()

    patch.setattr(compiler, "build", _Step)
    patch.setattr(compiler, "library_bytes", kept)
