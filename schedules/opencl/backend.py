"""What the compiler has to know of OpenCL devices."""

from __future__ import annotations

import re

import tvm

from mest_compiler.devices import OpenClProfile

from .. import opencl
from ..backend import Limits
from .generators import GENERATORS

_PROTOTYPE = re.compile(r"__kernel void \w+\(.*\);\s*$")
_MARK = "// Function: "
"""How TVM's code generator heads each kernel of OpenCL C."""


class OpenClBackend:
    """See `schedules.backend`.

    Kernels promise that their buffers are distinct: they have no pointers but their arguments, and drivers load ahead
    only where these are `restrict`.
    """

    kind = "opencl"
    generators = opencl
    families = GENERATORS
    rewrites: frozenset[str] = frozenset()
    storage = ("float32", "float16")
    noalias = True
    ordered_loops = False
    tvm_schedules = True

    def limits(self, device: OpenClProfile) -> Limits:
        return Limits(device.work_group, device.local_bytes)

    def sources(self, code: tvm.runtime.Module) -> dict[str, str]:
        found: dict[str, str] = {}
        for module in code.imports:
            if module.kind == "opencl":
                for part in module.inspect_source("cl").split(_MARK)[1:]:
                    name, _, source = part.partition("\n")
                    lines = source.splitlines(keepends=True)
                    # Without the prototypes of all the others.
                    found[f"{name.strip()}.cl"] = "".join(line for line in lines if not _PROTOTYPE.match(line))
            found |= self.sources(module)
        return found
