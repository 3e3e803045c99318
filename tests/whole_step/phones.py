"""Steps that are compiled for a phone, and the OpenCL C of their kernels."""

from __future__ import annotations

import pytest
import tvm
from torch import nn

from mest_compiler import compile as compiler
from mest_compiler.devices import OpenClProfile
from mest_compiler.optimizers import Sgd
from mest_compiler.passes.options import PLAIN, StepOptions
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.sparsity.profile import Profile

PHONE = "galaxy-s20"


def sources(module: tvm.runtime.Module) -> set[str]:
    """The OpenCL C of all kernels of a built step."""
    own = {module.inspect_source()} if module.kind == "opencl" else set()
    return own.union(*(sources(imported) for imported in module.imports))


def built(
    device: OpenClProfile, model: nn.Module, shape: tuple[int, int, int], options: StepOptions = PLAIN
) -> tuple[Artifact, set[str]]:
    """A step of four examples for a device, 70 % in blocks, and the source of its kernels."""
    kept: list[set[str]] = []

    def link(executable: tvm.relax.VMExecutable, target: OpenClProfile) -> bytes:
        kept.append(sources(executable.mod))
        return linked(executable, target)

    linked = compiler.library_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_device", lambda name, threads=None: device)
        patch.setattr(compiler, "library_bytes", link)
        artifact = compiler.compile_step(
            model, input_shape=shape, batch=4, profile=Profile.uniform("block", 0.7), device=PHONE,
            optimizer=Sgd(0.9, 5e-4, False), measure=not device.here, options=options,
        )  # fmt: skip
    return artifact, kept[0]
