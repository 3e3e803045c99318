"""Kernels that are no convolutions, run in a process of its own, for Oclgrind: `python -m ... [FAULT]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import tvm
from tvm import tirx

from mest_compiler.kernels.dropout import Dropout
from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.kernels.pool import Pool
from mest_compiler.kernels.sgd import Sgd
from mest_compiler.schedules.opencl import dropout, elementwise, normalise, plain, pooling, sgd
from mest_compiler.schedules.opencl.emit import Vec

from .launching import PHONE, compile_kernels
from .test_plain import loops

VEC = Vec(8, "float32")
BATCH, CHANNELS, MOMENTUM, EPS = 11, 3, 0.1, 1e-5
TILES = 2
FAULTS: dict[str, Callable[[str], str]] = {
    "no barriers": lambda code: code.replace("barrier(CLK_LOCAL_MEM_FENCE);", ""),
}
"""What is done to a kernel's source so that a watcher has something to find."""


def kernels() -> Iterator[tuple[str, tirx.PrimFunc, int]]:
    """(name, kernel, number of outputs that no input shows)."""
    plane, small, wide = Plane(5, 3, 1), Plane(5, 3), Plane(5, 3, 2)
    n = Normalisation(BATCH, CHANNELS, VEC, plane, wide, True, small, 6.0)
    yield "normalise", normalise.forward(n, MOMENTUM, EPS), 3
    yield "statistics", normalise.statistics(n, MOMENTUM, EPS), 2
    yield "again", normalise.again(n), 1
    yield "normalise backward", normalise.backward(n, [small, plane], wide, True), 4
    yield "tile in", elementwise.tile_in(BATCH, CHANNELS, plane, VEC), 1
    yield "tile out", elementwise.tile_out(BATCH, CHANNELS, plane, VEC), 1
    yield "features in", elementwise.features_in(BATCH, CHANNELS, VEC), 1
    yield "features out", elementwise.features_out(BATCH, CHANNELS, VEC), 1
    add = elementwise.elementwise("add", TILES, CHANNELS, [plane, small], wide, VEC, lambda a, b: a + b)
    yield "add", add, 1
    yield "channel sum", elementwise.channel_sum(TILES, CHANNELS, plane, VEC), 1
    yield "plane mean", elementwise.plane_mean(BATCH, CHANNELS, plane, VEC), 1
    yield "plane broadcast", elementwise.plane_broadcast(BATCH, CHANNELS, plane, VEC), 1
    yield "dropout", dropout.dropout(Dropout(TILES, CHANNELS, VEC, plane, wide, 0.5, 1)), 1
    p = Pool(TILES, CHANNELS, VEC, Plane(5, 4, 1), Plane(3, 2, 1), (3, 3), (2, 2), (1, 1), (1, 1))
    yield "max pool", pooling.forward(p), 2
    yield "max pool backward", pooling.backward(p), 1
    yield "average pool", pooling.average(p, 0), 1
    yield "average pool backward", pooling.average_backward(p, 0), 1
    yield "sgd", sgd.dense(Sgd(0.9, 1e-3, True), (7, 5), VEC, 1), 0
    yield "compact sgd", sgd.compact(Sgd(0.9, 1e-3, True), 7, 5, "uint16", VEC, 1), 0
    yield "accumulate", sgd.accumulate_compact(0.5, 7, 5, "int32", VEC, 1), 0
    # As many classes as Oclgrind can count: it knows no division by other numbers next to its remainder.
    bound = plain.bind(tvm.IRModule(loops("float32", False, 4, 8, 0, 8)), PHONE)
    for gvar, f in bound.functions.items():
        yield gvar.name_hint, f, 2 if gvar.name_hint == "nll_loss_forward" else 1


def run() -> None:
    """Every kernel once: a full and a partly filled tile of ones."""
    for name, function, outputs in kernels():
        arguments = []
        for i, parameter in enumerate(function.params):
            shape, dtype = tuple(int(k) for k in parameter.ty.shape), str(parameter.ty.dtype)
            unset = np.nan if dtype.startswith("float") else 99
            value = unset if i >= len(function.params) - outputs else 1
            arguments.append(tvm.runtime.tensor(np.full(shape, value, dtype)))
        compile_kernels({name: function})[name](*arguments)
        for made in arguments[len(arguments) - outputs :]:
            left = np.isnan(made.numpy()) if str(made.dtype).startswith("float") else made.numpy() == 99
            assert not left.any(), name


if __name__ == "__main__":
    if len(sys.argv) > 1:
        fault = FAULTS[sys.argv[1]]
        tvm.register_global_func("tvm_callback_opencl_postproc", lambda code, target: fault(code), override=True)
    run()
