"""What the compiler has to know of CPUs."""

from __future__ import annotations

import tvm

from mest_compiler.devices import Device

from .. import cpu
from .generators import GENERATORS


class CpuBackend:
    """See `schedules.backend`.

    Kernels do not promise that their buffers are distinct: ours cannot (see `emit.function`), Relax's own do, and TVM
    takes kernels generated after one of those at its word too: sums that are written by name and through pointers came
    out as NaN.
    """

    kind = "cpu"
    generators = cpu
    families = GENERATORS
    rewrites = frozenset({"forward_sums", "backward_sums", "weight_gradients", "forward_inputs"})
    storage = ("float32", "bfloat16")
    noalias = False
    ordered_loops = True
    tvm_schedules = False

    def limits(self, device: Device) -> None:
        return None

    def sources(self, code: tvm.runtime.Module) -> dict[str, str]:
        return {}
