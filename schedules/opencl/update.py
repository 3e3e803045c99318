"""An optimiser's step in place on OpenCL devices: on dense weights and on the filled part of compact ones."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.optimizers import Optimizer

from ..emit import Buffer
from ..in_place import Count, Numbers, changed, kernel, scalars_of, tensors_of
from .each_number import WorkItem, each_number
from .emit import Vec


def update(rule: Optimizer, numbers: Numbers, vec: Vec, chunks: int, shared: bool = False) -> tirx.PrimFunc:
    """A step of an optimiser; `chunks` is for other kinds of devices.

    Arguments: W, the slots, G; HYPER [hypers], and if `shared` WEIGHT [], by which G is divided; see `in_place.kernel`.
    """

    def body(tensors: dict[str, Buffer], scalars: dict[str, Buffer], count: Count) -> None:
        def step(item: WorkItem) -> None:
            old = {name: item.read(buffer) for name, buffer in tensors.items()}
            hypers = [item.splat(scalars["HYPER"][k]) for k in range(len(rule.hypers))]
            if shared:
                old["G"] = T.Bind(old["G"] / item.splat(scalars["WEIGHT"][()]))
            for name, value in changed(rule, item, old, hypers).items():
                item.write(tensors[name], value)

        each_number(vec, numbers.most, count, step)

    return kernel(rule.name, numbers, vec.dtype, tensors_of(rule), scalars_of(rule, vec.dtype, shared), body)
