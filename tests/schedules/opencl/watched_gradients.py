"""One weight gradient, run and checked in a process of its own, for Oclgrind: `python -m ... FAMILY [FAULT]`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mest_compiler.schedules.opencl.emit import Vec

from ..convolutions import Conv, Data
from ..generators import families_of
from ..sparse_layers import SparseCase, fitted, hostile_masks, sparse_conv
from .gradients import KNOBS, dense_gradient_of, run_dense, run_sparse, sparse_gradient
from .launching import compile_kernels
from .oclgrind import plant, right

VEC = Vec(8, "float32")
LAYER = Conv(3, 5, (5, 3), stride=(1, 2), batch=11)
SCHEMES = {"block": "block:3x2", "pattern": "pattern", "channel": "channel", "filter": "filter"}
FAMILIES = ("dense", *SCHEMES, "split")
FAULTS: dict[str, Callable[[str], str]] = {
    "no barriers": lambda code: code.replace("barrier(CLK_LOCAL_MEM_FENCE);", ""),
    "no zeros": lambda code: code.replace(
        "= ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));", ";"
    ),
}
"""What is done to a kernel's source so that a watcher has something to find."""


def run(family: str) -> None:
    """Kernels of a family; "split": one whose image rows several work-groups share out."""
    knobs = KNOBS[2 if family == "split" else 1]
    if family in ("dense", "split"):
        gradient = dense_gradient_of(LAYER.geometry(VEC), 4, knobs)
        run_dense(family, gradient, compile_kernels({"": gradient.make()})[""], Data.make(LAYER, VEC))
        return
    scheme = SCHEMES[family]
    conv = fitted(LAYER, scheme)
    layer = sparse_conv(conv, VEC, scheme)
    gradient = sparse_gradient(layer, families_of(scheme, conv.stride)[0], knobs, 4)
    kernel = compile_kernels({"": gradient.make()})[""]
    masks = hostile_masks(scheme, conv.weight_shape)
    for name in ("uneven rows", "empty rows", "none"):
        run_sparse(f"{family} on mask {name!r}", gradient, kernel, SparseCase.make(conv, layer, masks[name]))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        plant(FAULTS[sys.argv[2]])
    run(sys.argv[1])
    right()
