"""This machine's CPU, as generators want to know it: vector width, registers, caches, threads."""

from __future__ import annotations

import os
from dataclasses import dataclass

import tvm
from tvm.target import codegen

from mest_compiler.errors import DeviceError

from .machine_code import lacking, needs_of
from .roofline import Roofline

# LLVM feature -> (vector bits, vector registers), widest first.
_VECTORS = (("avx512f", 512, 32), ("avx2", 256, 16), ("avx", 256, 16), ("neon", 128, 32), ("sse2", 128, 16))


@dataclass(frozen=True)
class CpuProfile:
    """A CPU target: LLVM's name of the CPU, bits of a vector register, how many there are, threads to use."""

    mcpu: str
    vector_bits: int
    registers: int
    threads: int

    @property
    def kind(self) -> str:
        """Which generators are for it."""
        return "cpu"

    @property
    def pipeline(self) -> str:
        """TVM's passes over kernels."""
        return "default"

    @property
    def needless_passes(self) -> tuple[str, ...]:
        """Those among them that are left out.

        No buffer of ours is larger than what is used of it. Finding that out takes most of the time that long kernels,
        those of patterns above all, are compiled in; the code that comes out is the same.
        """
        return ("s_tir.CompactBufferAllocation",)

    @property
    def host(self) -> None:
        """LLVM triple of the program that runs the kernels; None: this machine's."""
        return None

    @property
    def here(self) -> bool:
        """Whether it is part of this machine."""
        return True

    @property
    def hardware_known(self) -> bool:
        """Whether two profiles that are equal are of the same hardware, so that times hold true for both."""
        return True

    @property
    def record_folder(self) -> str:
        """Name of its folder among the tuning logs."""
        return f"cpu-{self.mcpu}"

    @property
    def roofline(self) -> Roofline:
        """What kernels reach on a core, whatever its name: sparse ones 30 to 40 GFLOP/s, element-wise ones 8 to 10."""
        return Roofline(36.0, 9.0)

    @property
    def offsets(self) -> bool:
        """Whether a tensor may start inside a block of memory."""
        return True

    @property
    def target(self) -> tvm.target.Target:
        """TVM target; without mcpu there would be no wide vectors.

        LLVM's own vectoriser of straight-line code is off: our kernels are written in vectors, and it breaks some small
        float64 matrix products ("Instruction does not dominate all uses").
        """
        return tvm.target.Target({**self.llvm, "cl-opt": ["-vectorize-slp=false"]})

    @property
    def llvm(self) -> dict[str, object]:
        """LLVM's target of this CPU, as TVM takes it, without options."""
        return _llvm(self.mcpu)

    def lanes(self, dtype: str) -> int:
        """Numbers of a dtype in one vector: the batch lanes L."""
        bits = {"float32": 32, "float64": 64}.get(dtype)
        if bits is None:
            raise DeviceError(f"The CPU kernels compute in float32 or float64, not in {dtype}.")
        return self.vector_bits // bits


def _llvm(mcpu: str) -> dict[str, object]:
    named = {"kind": "llvm", "mcpu": mcpu}
    if mcpu != codegen.llvm_get_system_cpu():
        return named
    # A virtual machine may hide instruction sets that its model of CPU has.
    hidden = lacking(needs_of(tvm.target.Target(named)).features)
    return {**named, "mattr": [f"-{name}" for name in hidden]} if hidden else named


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# TVM's thread pool takes half of the cores on x86 (it counts hyper-threads), and its size is fixed when it starts, at
# the first parallel kernel of a process. A session then uses as many of these threads as it was asked for.
os.environ.setdefault("TVM_NUM_THREADS", str(available_cores()))


def local_cpu(threads: int | None = None, mcpu: str | None = None) -> CpuProfile:
    """The machine's own CPU. `threads` defaults to every core it may use; `mcpu` to what LLVM finds.

    Raises:
        DeviceError: fewer than one thread, more than there are cores, or a CPU without known vectors.
    """
    cores = available_cores()
    threads = cores if threads is None else threads
    if not 1 <= threads <= cores:
        raise DeviceError(f"{threads} threads were asked for, and this machine has {cores} cores: use 1 to {cores}.")
    mcpu = mcpu or str(codegen.llvm_get_system_cpu())
    target = tvm.target.Target(_llvm(mcpu))
    for feature, bits, registers in _VECTORS:
        if codegen.target_has_features(feature, target):
            return CpuProfile(mcpu, bits, registers, threads)
    raise DeviceError(f"The CPU {mcpu!r} has none of the vector units this compiler knows (AVX-512, AVX2, NEON, SSE2).")
