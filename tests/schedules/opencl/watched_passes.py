"""Kernels that are no convolutions, run in a process of its own, for Oclgrind:
`python -m ... FAMILY [FAULT]`."""

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
from mest_compiler.optimizers import AdamW, Sgd
from mest_compiler.schedules.in_place import Numbers
from mest_compiler.schedules.opencl import accumulate, dropout, elementwise, normalise, plain, pooling, update
from mest_compiler.schedules.opencl.emit import Vec

from .launching import PHONE, compile_kernels
from .oclgrind import plant, right
from .test_plain import loops

VEC = Vec(8, "float32")
BATCH, CHANNELS, MOMENTUM, EPS = 11, 3, 0.1, 1e-5
TILES = 2
FAULTS: dict[str, Callable[[str], str]] = {
    "no barriers": lambda code: code.replace("barrier(CLK_LOCAL_MEM_FENCE);", ""),
}
"""What is done to a kernel's source so that a watcher has something to find."""


Watched = Iterator[tuple[str, tirx.PrimFunc, int]]  # name, kernel, number of outputs that no input shows

PLANE, BARE, WIDE = Plane(5, 3, 1), Plane(5, 3), Plane(5, 3, 2)


def normalisations() -> Watched:
    """Batch norm with all that belongs to it."""
    n = Normalisation(BATCH, CHANNELS, VEC, PLANE, WIDE, True, BARE, 6.0)
    yield "normalise", normalise.forward(n, MOMENTUM, EPS), 3
    yield "statistics", normalise.statistics(n, MOMENTUM, EPS), 2
    yield "recompute", normalise.recompute(n), 1
    yield "normalise backward", normalise.backward(n, [BARE, PLANE], WIDE, True), 4


def sums() -> Watched:
    """What adds up in work-groups."""
    yield "channel sum", elementwise.channel_sum(TILES, CHANNELS, PLANE, VEC), 1
    yield "plane mean", elementwise.plane_mean(BATCH, CHANNELS, PLANE, VEC), 1


def passes() -> Watched:
    """What goes over an activation."""
    yield "tile in", elementwise.tile_in(BATCH, CHANNELS, PLANE, VEC), 1
    yield "tile out", elementwise.tile_out(BATCH, CHANNELS, PLANE, VEC), 1
    yield "features in", elementwise.features_in(BATCH, CHANNELS, VEC), 1
    yield "features out", elementwise.features_out(BATCH, CHANNELS, VEC), 1
    add = elementwise.elementwise("add", TILES, CHANNELS, [PLANE, BARE], WIDE, VEC, lambda a, b: a + b)
    yield "add", add, 1
    yield "plane broadcast", elementwise.plane_broadcast(BATCH, CHANNELS, PLANE, VEC), 1
    yield "dropout", dropout.dropout(Dropout(TILES, CHANNELS, VEC, PLANE, WIDE, 0.5, 1)), 1


def pools() -> Watched:
    """Pooling and the ways back."""
    p = Pool(TILES, CHANNELS, VEC, Plane(5, 4, 1), Plane(3, 2, 1), (3, 3), (2, 2), (1, 1), (1, 1))
    yield "max pool", pooling.forward(p), 2
    yield "max pool backward", pooling.backward(p), 1
    yield "average pool", pooling.average(p, 0), 1
    yield "average pool backward", pooling.average_backward(p, 0), 1


def updates() -> Watched:
    """Optimisers and sums of gradients."""
    yield "sgd", update.update(Sgd(0.9, 1e-3, True), Numbers((7, 5)), VEC, 1), 0
    yield "compact sgd", update.update(Sgd(0.9, 1e-3, True), Numbers((7, 5), "uint16"), VEC, 1), 0
    yield "compact adam", update.update(AdamW(), Numbers((7, 5), "uint16"), VEC, 1), 0
    yield "accumulate", accumulate.accumulate(Numbers((7, 5), "int32"), VEC, 1), 0


def plain_functions() -> Watched:
    """A classifier and its loss, with as many classes as Oclgrind can count: it knows no division by other numbers
    next to its remainder."""
    bound = plain.bind(tvm.IRModule(loops("float32", False, 4, 8, 0, 8)), PHONE)
    for gvar, f in bound.functions.items():
        yield gvar.name_hint, f, 2 if gvar.name_hint == "nll_loss_forward" else 1


FAMILIES = {f.__name__: f for f in (normalisations, sums, passes, pools, updates, plain_functions)}
"""A process each: Oclgrind does not bear many kernels in one."""
SYNCHRONISED = ("normalisations", "sums")
"""Those whose work-items wait for each other."""


def run(family: str) -> None:
    """Every kernel of a family once: a full and a partly filled tile of ones."""
    for name, function, outputs in FAMILIES[family]():
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
    if len(sys.argv) > 2:
        plant(FAULTS[sys.argv[2]])
    run(sys.argv[1])
    right()
