"""Forward and backward-data of one family, run and checked in a process of its own, for Oclgrind:
`python -m ... FAMILY [FAULT]`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mest_compiler.schedules.opencl.emit import Vec

from ..convolutions import Conv
from .gathers import KNOBS
from .oclgrind import plant, right
from .test_dense_gather import check as check_dense
from .test_sparse_gather import check as check_sparse

VEC = Vec(8, "float32")
LAYER = Conv(3, 5, (5, 4), stride=(1, 2), batch=11)
SCHEMES = {"block": "block", "unstructured": "unstructured", "uneven blocks": "block:3x2", "pattern": "pattern",
           "channel": "channel", "filter": "filter"}  # fmt: skip
FAMILIES = ("dense", *SCHEMES)
FAULTS: dict[str, Callable[[str], str]] = {
    "no zeros": lambda code: code.replace(
        "= ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));", ";"
    ),
    "too far": lambda code: code.replace("get_group_id(2)", "get_group_id(2) + 1"),
}
"""What is done to a kernel's source so that a watcher has something to find."""


def run(family: str) -> None:
    """Both directions of a family."""
    if family == "dense":
        check_dense(LAYER, VEC, [KNOBS[1]])
    else:
        check_sparse(LAYER, SCHEMES[family], VEC, 1, 1)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        plant(FAULTS[sys.argv[2]])
    run(sys.argv[1])
    right()
