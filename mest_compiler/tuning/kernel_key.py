"""The key of a compiled kernel, for whatever is remembered of it: everything that its machine code, and so its time,
depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import tvm
from tvm import tirx
from tvm.target import codegen

from mest_compiler import caching, kernels, schedules
from mest_compiler.devices import Device
from mest_compiler.runtime.local_device import identified


def kernel_key(functions: Sequence[tirx.PrimFunc], device: Device) -> str:
    """Digest of kernels as they are compiled for a device that is here: their code, knobs included, the sources of
    `kernels` and `schedules` (which also say how arguments are laid out), the target with its features, and on OpenCL
    the device and its driver.

    Raises:
        DeviceError: there is no such device here.
    """
    its = identified(device)
    return caching.key(
        code=[tvm.ir.save_json(function) for function in functions],
        sources=caching.sources([*kernels.__path__, *schedules.__path__]),
        tvm=tvm.__version__,
        llvm=int(codegen.llvm_version_major(True)),
        target=str(its.target),
        features=_features(its.target),
        device=asdict(its),
        pipeline=[its.pipeline, *its.needless_passes],
    )


def _features(target: tvm.target.Target) -> list[str]:
    """LLVM's features of a CPU target; none for others, whose driver compiles."""
    if str(target.kind.name) != "llvm":
        return []
    return sorted(str(name) for name in codegen.llvm_get_cpu_features(target))
