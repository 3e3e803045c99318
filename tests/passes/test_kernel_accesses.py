"""What a kernel reads and writes: by name, through views and pointers, and not at all where it only looks so."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from tvm import relax, tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.devices import get_device
from mest_compiler.frontend import TrainingGraph, trace
from mest_compiler.passes.kernel_accesses import Accesses, accesses
from mest_compiler.passes.pipeline import lower
from mest_compiler.passes.program import op_name, relax_functions
from mest_compiler.schedules.cpu.emit import Vec
from mest_compiler.schedules.emit import Buffer, function
from mest_compiler.schedules.opencl.narrow import narrowed

from ..whole_step.networks import PreActivation
from .programs import CALLS, bindings
from .test_lowered_steps import RULE, plan

VEC = Vec(4, "float32")


def kernel(body: Callable[[Buffer, Buffer, Buffer], None]) -> tirx.PrimFunc:
    """Of x float32 [16], at int32 [4] and y float32 [16]."""

    def emit() -> None:
        x, at, y = (
            T.arg(n, T.buffer((s,), d)) for n, s, d in (("x", 16, "float32"), ("at", 4, "int32"), ("y", 16, "float32"))
        )
        body(x, at, y)

    return function("kernel", emit)


def by_name(x: Buffer, at: Buffer, y: Buffer) -> None:
    T.buffer_store(y, x[at[0]], [0])


def through_views(x: Buffer, at: Buffer, y: Buffer) -> None:
    source, target = (T.decl_buffer((4, 4), "float32", data=b.data) for b in (x, y))
    T.buffer_store(target, source[1, 2], [0, 0])


def through_pointers(x: Buffer, at: Buffer, y: Buffer) -> None:
    VEC.store(VEC.pointer(y, at[1]), VEC.load(VEC.pointer(x, 0), 0), 0)


def through_a_pointer_of_a_view(x: Buffer, at: Buffer, y: Buffer) -> None:
    VEC.store(VEC.pointer(T.decl_buffer((16,), "float32", data=y.data), 0), VEC.const(1), 0)


def in_place(x: Buffer, at: Buffer, y: Buffer) -> None:
    T.buffer_store(y, y[0] + x[0], [0])


def ahead(x: Buffer, at: Buffer, y: Buffer) -> None:
    VEC.prefetch(VEC.pointer(x, 0), 0)
    VEC.prefetch(VEC.pointer(y, 0), 0, write=True)
    T.buffer_store(y, T.float32(0), [0])


def registers(x: Buffer, at: Buffer, y: Buffer) -> None:
    (register,) = VEC.registers(1)
    VEC.set(register, VEC.const(1))
    VEC.store(VEC.pointer(y, 0), VEC.get(register), 0)


def handed_on(x: Buffer, at: Buffer, y: Buffer) -> None:
    T.evaluate(T.call_extern("int32", "anything", T.address_of(y[0])))


FOUND = {
    by_name: ({0, 1}, {2}),
    through_views: ({0}, {2}),
    through_pointers: ({0, 1}, {2}),
    through_a_pointer_of_a_view: (set(), {2}),
    in_place: ({0, 2}, {2}),
    ahead: (set(), {2}),
    registers: (set(), {2}),
    handed_on: ({2}, {2}),
}


@pytest.mark.parametrize("body", FOUND, ids=lambda body: body.__name__)
def test_accesses(body: Callable[[Buffer, Buffer, Buffer], None]) -> None:
    reads, writes = FOUND[body]
    assert accesses(kernel(body)) == Accesses(frozenset(reads), frozenset(writes))


def test_what_is_read_and_written_as_float16() -> None:
    def copy(x: Buffer, at: Buffer, y: Buffer) -> None:
        source, target = (T.decl_buffer((16,), "float32", data=b.data) for b in (x, y))
        VEC.store(target, VEC.load(source, 1), 0)

    assert accesses(narrowed(kernel(copy), {0, 2})) == Accesses(frozenset({0}), frozenset({2}))


@cache
def traced() -> TrainingGraph:
    """A network with residuals; nobody may change it."""
    torch.manual_seed(0)
    return trace(PreActivation(), torch.zeros(4, 3, 5, 5))


@pytest.mark.parametrize("scheme", ["block", "pattern", "channel"])
@pytest.mark.parametrize("device", ["cpu", "opencl"])
def test_kernels_write_what_their_calls_say(device: str, scheme: str) -> None:
    graph = traced()
    result = lower(graph, plan(graph, scheme), RULE, get_device(device))
    calls = [expr for name, _ in relax_functions(result.module) for _, expr in bindings(result.module, name)]
    calls = [call for call in calls if op_name(call) in CALLS]
    assert len(calls) > 50
    for call in calls:
        found, inputs, said = accesses(result.module[call.args[0]]), len(call.args[1].fields), written(call)
        assert found.writes == said, call.args[0].name_hint
        assert found.reads <= set(range(inputs)) | said, call.args[0].name_hint


def written(call: relax.Call) -> set[int]:
    """Positions of the kernel's arguments that a call says it writes: outputs of its own come last."""
    ty, inputs = call.ty_args[0], len(call.args[1].fields)
    count = len(ty.fields) if isinstance(ty, relax.TupleType) else 1
    in_place = [-1] * count if op_name(call) == CALLS[0] else [int(i) for i in call.attrs.inplace_indices]
    fresh = sum(i < 0 for i in in_place)
    return {i for i in in_place if i >= 0} | set(range(inputs, inputs + fresh))
