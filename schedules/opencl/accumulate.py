"""Sums of gradients in place on OpenCL devices: of dense weights and of the filled part of compact ones."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..emit import Buffer
from ..in_place import Count, Numbers, kernel
from .each_number import WorkItem, each_number
from .emit import Vec


def accumulate(numbers: Numbers, vec: Vec, chunks: int) -> tirx.PrimFunc:
    """A = (0 if FIRST else A) + G. Arguments: A, G; FIRST int32 []; see `in_place.kernel`. `chunks` is for other kinds
    of devices.

    The first one must not read A: what stands there may be no number.
    """

    def body(tensors: dict[str, Buffer], scalars: dict[str, Buffer], count: Count) -> None:
        a, g = tensors.values()

        def add(item: WorkItem) -> None:
            with T.If(scalars["FIRST"][()] > 0):
                with T.Then():
                    item.write(a, item.read(g))
                with T.Else():
                    item.write(a, item.read(a) + item.read(g))

        each_number(vec, numbers.most, count, add)

    return kernel("accumulate", numbers, vec.dtype, "AG", {"FIRST": ((), "int32")}, body)
