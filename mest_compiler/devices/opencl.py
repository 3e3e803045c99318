"""OpenCL devices, as generators want to know them: lanes of a batch tile, limits of a work-group, the wave."""

from __future__ import annotations

from dataclasses import dataclass

import tvm

from mest_compiler.errors import DeviceError

from .roofline import Roofline

PHONE = Roofline(900.0, 44.0)
"""What is promised of a phone's GPU (an Adreno 650), for a profile that does not say."""


@dataclass(frozen=True)
class OpenClProfile:
    """An OpenCL target.

    batch_lanes: L, examples of a batch tile. work_group: most work-items of a work-group. local_bytes:
    of local memory a work-group. wave: work-items that run in step. host: LLVM triple of the program that launches the
    kernels, None: this machine's. doubles: whether it computes in float64. threads: parts that rows are dealt out to.
    halves: whether it can store float16, as OpenCL C can by itself. buffer_bytes: of its largest buffer,
    argument_bytes: of a kernel's arguments; None: not known. peak_gflops, peak_gbs: what its maker promises of float32
    and of its memory; None: not known (what a device really reaches is measured, see `measured.py`). hardware: name and
    driver of the device that runs the kernels, "" where that is not known (see `runtime.local_device.identified`):
    times and fastest knobs are true for it alone.
    """

    name: str
    batch_lanes: int = 64
    work_group: int = 1024
    local_bytes: int = 32768
    wave: int = 64
    host: str | None = None
    doubles: bool = True
    threads: int = 1
    halves: bool = True
    buffer_bytes: int | None = None
    argument_bytes: int | None = None
    peak_gflops: float | None = None
    peak_gbs: float | None = None
    hardware: str = ""

    @property
    def kind(self) -> str:
        """Which generators are for it."""
        return "opencl"

    @property
    def pipeline(self) -> str:
        """TVM's passes over kernels; the default ones cannot take OpenCL targets."""
        return "s_tir"

    @property
    def needless_passes(self) -> tuple[str, ...]:
        """Those among them that are left out."""
        return ()

    @property
    def here(self) -> bool:
        """Whether it is part of this machine."""
        return self.host is None

    @property
    def hardware_known(self) -> bool:
        """Whether two profiles that are equal are of the same hardware, so that times hold true for both."""
        return bool(self.hardware)

    @property
    def record_folder(self) -> str:
        """Name of its folder among the tuning logs."""
        return self.name

    @property
    def roofline(self) -> Roofline:
        """What its maker promises, or else that of `PHONE`."""
        return Roofline(self.peak_gflops or PHONE.gflops, self.peak_gbs or PHONE.gbs)

    @property
    def offsets(self) -> bool:
        """Whether a tensor may start inside a block of memory: a buffer is no address."""
        return False

    @property
    def target(self) -> tvm.target.Target:
        """TVM target; its own defaults for OpenCL (256 items, 16 KiB, wave 1) are wrong for a phone."""
        host = {"kind": "llvm"} if self.host is None else {"kind": "llvm", "mtriple": self.host}
        return tvm.target.Target(
            {
                "kind": "opencl", "max_num_threads": self.work_group, "max_shared_memory_per_block": self.local_bytes,
                "thread_warp_size": self.wave, "host": host,
            }
        )  # fmt: skip

    def lanes(self, dtype: str) -> int:
        """Numbers of a dtype in a batch tile's pixel: L, whatever the type."""
        if dtype not in ("float32", "float64") or (dtype == "float64" and not self.doubles):
            known = "float32 or float64" if self.doubles else "float32"
            raise DeviceError(f"The kernels for {self.name} compute in {known}, not in {dtype}.")
        return self.batch_lanes
