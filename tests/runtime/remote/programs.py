"""Libraries for the server's CPU: one that computes, one that takes long, one that crashes."""

from __future__ import annotations

from functools import cache

import tvm
from tvm.script.ir_builder import tirx as T

from mest_compiler.devices import local_cpu
from mest_compiler.linking import library_bytes
from mest_compiler.schedules.emit import function

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
