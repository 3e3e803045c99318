"""Kernels that the tests of the OpenCL runtime launch, each parsed when it is first asked for, which takes a second."""

from functools import cache

import tvm
from tvm.script import tirx as T

TARGET = {"kind": "opencl", "max_num_threads": 1024, "host": {"kind": "llvm"}}


def built(**functions: tvm.tirx.PrimFunc) -> tvm.runtime.Module:
    """A module that has functions by name."""
    named = {name: func.with_attr("global_symbol", name) for name, func in functions.items()}
    return tvm.tirx.build(tvm.IRModule(named), target=tvm.target.Target(TARGET), pipeline="s_tir")


def twice_plus_one(dtype: str, items: int = 64) -> tvm.tirx.PrimFunc:
    """y = 2 x + 1 on vectors of any length, in work-groups of `items`."""

    @T.prim_func(s_tir=True)
    def func(x: T.handle, y: T.handle) -> None:
        n = T.int32()
        X = T.match_buffer(x, (n,), dtype)
        Y = T.match_buffer(y, (n,), dtype)
        for i in T.thread_binding(T.ceildiv(n, items), thread="blockIdx.x"):
            for j in T.thread_binding(items, thread="threadIdx.x"):
                if i * items + j < n:
                    Y[i * items + j] = X[i * items + j] * T.cast(2, dtype) + T.cast(1, dtype)

    return func


@cache
def three_dimensions() -> tvm.tirx.PrimFunc:
    """Every item of a grid of 2x3x4 work-groups of 4x3x2 items writes where it is, and what it was passed."""

    @T.prim_func(s_tir=True)
    def func(y: T.handle, offset: T.int32, scale: T.float32, far: T.int64) -> None:
        Y = T.match_buffer(y, (8, 9, 8), "float32")
        for bz in T.thread_binding(4, thread="blockIdx.z"):
            for by in T.thread_binding(3, thread="blockIdx.y"):
                for bx in T.thread_binding(2, thread="blockIdx.x"):
                    for tz in T.thread_binding(2, thread="threadIdx.z"):
                        for ty in T.thread_binding(3, thread="threadIdx.y"):
                            for tx in T.thread_binding(4, thread="threadIdx.x"):
                                Y[bz * 2 + tz, by * 3 + ty, bx * 4 + tx] = T.cast(
                                    (bz * 2 + tz) * 100 + (by * 3 + ty) * 10 + bx * 4 + tx + offset, "float32"
                                ) * scale + T.cast(far // T.int64(1 << 32), "float32")

    return func


@cache
def does_not_compile() -> tvm.tirx.PrimFunc:
    """Calls what no OpenCL C has."""

    @T.prim_func(s_tir=True)
    def func(x: T.handle, y: T.handle) -> None:
        X = T.match_buffer(x, (64,), "float32")
        Y = T.match_buffer(y, (64,), "float32")
        for i in T.thread_binding(64, thread="threadIdx.x"):
            Y[i] = T.call_extern("float32", "no_such_function", X[i])

    return func


@cache
def through_workspace() -> tvm.tirx.PrimFunc:
    """Two kernels with a buffer of the function's own between them: y = -(x + 1), each item from another's."""

    @T.prim_func(s_tir=True)
    def func(x: T.handle, y: T.handle) -> None:
        X = T.match_buffer(x, (1024,), "float32")
        Y = T.match_buffer(y, (1024,), "float32")
        between = T.alloc_buffer((1024,), "float32")
        for i in T.thread_binding(16, thread="blockIdx.x"):
            for j in T.thread_binding(64, thread="threadIdx.x"):
                between[1023 - (i * 64 + j)] = X[i * 64 + j] + T.float32(1)
        for i in T.thread_binding(16, thread="blockIdx.x"):
            for j in T.thread_binding(64, thread="threadIdx.x"):
                Y[1023 - (i * 64 + j)] = T.float32(0) - between[i * 64 + j]

    return func


@cache
def reversed_through_local_memory() -> tvm.tirx.PrimFunc:
    """The numbers of a work-group the other way round, each read from what another item wrote."""

    @T.prim_func(s_tir=True)
    def func(x: T.handle, y: T.handle) -> None:
        X = T.match_buffer(x, (64,), "float32")
        Y = T.match_buffer(y, (64,), "float32")
        slab = T.alloc_buffer((64,), "float32", scope="shared")
        for i in T.thread_binding(64, thread="threadIdx.x"):
            slab[i] = X[i]
            Y[i] = slab[63 - i]

    return func
