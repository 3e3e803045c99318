"""What the tests of the passes share: counting a module's operators and kernel calls, and finding all its tensors."""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from collections.abc import Iterator

import pytest
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.script import from_source
from tvm.tirx.buffer import BufferType

from mest_compiler.frontend.ops import attributes
from mest_compiler.passes.program import Program, op_name

CALLS = ("relax.call_tir", "relax.call_tir_inplace")


def parsed(script: str) -> tvm.IRModule:
    """A module as TVMScript. Each decorator of a kernel looks up the source lines of the whole stack, to find the names
    around it, which a script of its own has none of: without that it is parsed three times as fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", lambda context=1: [])
        return from_source(script)


def bindings(mod: tvm.IRModule, function: str) -> list[tuple[relax.Var, relax.Expr]]:
    """All bindings of a Relax function, in order."""
    return Program.of(mod[function]).bindings


def operators(mod: tvm.IRModule, function: str = "step") -> Counter[str]:
    """How often each operator is called."""
    return Counter(name for _, expr in bindings(mod, function) if (name := op_name(expr)))


def calls_of(mod: tvm.IRModule, operator: str, function: str = "step") -> list[dict]:
    """Attributes of every call of a mest.* operator, in order, with the number of its arguments."""
    found = [expr for _, expr in bindings(mod, function) if op_name(expr) == operator]
    return [{**attributes(call), "arguments": len(call.args)} for call in found]


def kernel_calls(mod: tvm.IRModule, function: str) -> Counter[str]:
    """How often each kind of kernel is called; the numbers that tell kernels of one kind apart are taken off."""
    names = [str(expr.args[0].name_hint) for _, expr in bindings(mod, function) if op_name(expr) in CALLS]
    return Counter(re.sub(r"_?\d*$", "", name) for name in names)


def _tensor_types(ty: tvm.ir.Type) -> Iterator[relax.TensorType]:
    if isinstance(ty, relax.TensorType):
        yield ty
    elif isinstance(ty, relax.TupleType):
        for field in ty.fields:
            yield from _tensor_types(field)


def _buffers(function: tirx.PrimFunc) -> list[BufferType]:
    """Types of a kernel's arguments, allocations and views."""
    found: list[BufferType] = []
    tvm_ffi.structural_walk(function.body, (BufferType, found.append))
    return [p.ty for p in function.params if isinstance(p.ty, BufferType)] + found


def tensors(mod: tvm.IRModule) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """(where, shape, dtype) of every tensor of a module: parameters, bindings and results, and buffers of PrimFuncs."""
    for gvar, function in mod.functions.items():
        if isinstance(function, relax.Function):
            pairs = [(p, None) for p in function.params] + Program.of(function).bindings
            for var, _ in pairs:
                for ty in _tensor_types(var.ty):
                    yield f"{gvar.name_hint}: {var.name}", tuple(int(n) for n in ty.shape), str(ty.dtype)
        else:
            for buffer in _buffers(function):
                if all(isinstance(n, tirx.IntImm) for n in buffer.shape):
                    yield f"{gvar.name_hint}: a buffer", tuple(int(n) for n in buffer.shape), str(buffer.dtype)


def size_of(shape: tuple[int, ...]) -> int:
    """Elements of a shape."""
    return math.prod(shape)
