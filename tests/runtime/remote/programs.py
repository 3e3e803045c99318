"""Libraries for the server's CPU and its OpenCL device: some compute, some take long, some crash."""

from __future__ import annotations

from functools import cache

import tvm
from tvm.script.ir_builder import tirx as T

from mest_compiler.devices import get_device, local_cpu
from mest_compiler.linking import library_bytes
from mest_compiler.schedules.emit import function
from mest_compiler.schedules.opencl.emit import launch

NUMBERS = 8
LONG = 1 << 37
"""Rounds that no test waits for."""


def _built(name: str, body) -> bytes:
    def append() -> None:
        x = T.arg("x", T.buffer((NUMBERS,), "float64"))
        body(x)

    profile = local_cpu(1)
    return library_bytes(tvm.tirx.build(tvm.IRModule({name: function(name, append)}), target=profile.target), profile)


@cache
def adding(number: float) -> bytes:
    """Its function `add` adds a number to all of x."""

    def body(x) -> None:
        with T.serial(NUMBERS) as i:
            T.buffer_store(x, x[i] + T.float64(number), [i])

    return _built("add", body)


@cache
def long() -> bytes:
    """Its function `spin` is not through before the test is."""

    def body(x) -> None:
        with T.serial(T.int64(LONG)):
            T.buffer_store(x, x[0] * T.float64(0.5) + T.float64(1), [0])

    return _built("spin", body)


@cache
def crashing() -> bytes:
    """Its function `crash` ends the process that calls it."""
    return _built("crash", lambda x: T.evaluate(T.call_extern("int32", "abort")))


def _opencl(body) -> bytes:
    """Its function `run` is a kernel that does `body(x, item, far)` in each of its items."""

    def append() -> None:
        x, far = T.arg("x", T.buffer((NUMBERS,), "float32")), T.arg("far", T.int64())
        with launch([1], [NUMBERS]) as (_, (item,)):
            body(x, item, far)

    profile = get_device("opencl")
    functions = tvm.IRModule({"run": function("run", append)})
    return library_bytes(tvm.tirx.build(functions, target=profile.target, pipeline="s_tir"), profile)


@cache
def scattering() -> bytes:
    """Its kernel `run` adds 1 to the numbers that lie `far` behind x."""
    return _opencl(lambda x, item, far: T.buffer_store(x, x[far + item] + T.float32(1), [far + item]))


@cache
def turning() -> bytes:
    """Its kernel `run` goes `far` times around."""

    def body(x, item, far) -> None:
        with T.serial(far):
            T.buffer_store(x, x[item] * T.float32(0.5) + T.float32(1), [item])

    return _opencl(body)


@cache
def unknown() -> bytes:
    """Its kernel `run` calls what no OpenCL C has."""
    return _opencl(
        lambda x, item, far: T.buffer_store(x, T.call_extern("float32", "no_such_function", x[item]), [item])
    )
