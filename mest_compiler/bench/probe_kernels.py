"""Small OpenCL kernels whose times say what a device can do: bandwidths, multiply-adds, launches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm.script.ir_builder import tirx as T

from mest_compiler.devices import OpenClProfile
from mest_compiler.schedules.emit import function
from mest_compiler.schedules.opencl.emit import Vec, launch

FLOAT = 4  # bytes
GROUP, GROUPS = 128, 256
ITEMS = GROUP * GROUPS
NUMBERS = 1 << 23
"""Floats of the buffer that is read: 32 MiB, more than a phone's caches hold."""
TABLE = 256
"""Quads of the table that all items read in step: 4 KiB, as much as `__constant` is good for."""
ROUNDS = 64
"""How often the local slab, and how often the table, are gone through."""
ACCUMULATORS = 8
STEPS = 1024
"""Multiply-adds of each accumulator."""
WIDTHS = (1, 4, 8)
FEW, MANY = 20, 220
"""Launches in a row; their difference is free of what starting and waiting cost."""
CHECK = "check"
_POSTPROCESS = "tvm_callback_opencl_postproc"
_CONSTANT = re.compile(r"__global (?:const )?float\* (?:restrict )?(in_constant\w*)")


@dataclass(frozen=True)
class Kernel:
    """A kernel by name: how many bytes it reads or operations it does, in its `unit`, and its lengths of arguments."""

    name: str
    about: str
    work: float
    unit: str
    function: tvm.tirx.PrimFunc
    sizes: tuple[int, int]


def kernels() -> list[Kernel]:
    """Those whose device time is measured; each takes an input and an output buffer of float32."""
    found = [
        _kernel(f"read_{width * FLOAT}", f"buffer reads, {width * FLOAT} bytes an item", NUMBERS * FLOAT, "GB/s",
                NUMBERS, lambda x, width=width: _read(x, width))
        for width in WIDTHS
    ]  # fmt: skip
    local = ITEMS * GROUP * ROUNDS / 8 * 4 * FLOAT
    table = ITEMS * TABLE * ROUNDS / 16 * 4 * FLOAT
    operations = 2 * 4 * ACCUMULATORS * STEPS * ITEMS
    return [
        *found,
        _kernel("local", "local memory reads, 16 bytes an item", local, "GB/s", GROUP * 4, _local),
        _kernel("uniform_global", "uniform reads of a __global table", table, "GB/s", TABLE * 4, _uniform),
        _kernel("uniform_constant", "uniform reads of a __constant table", table, "GB/s", TABLE * 4, _uniform),
        _kernel("multiply_add", "multiply-adds as a * b + c", operations, "GFLOP/s", ITEMS, _multiply_add),
        _kernel("mad", "multiply-adds as mad(a, b, c)", operations, "GFLOP/s", ITEMS, _mad),
    ]


def launches() -> dict[int, tvm.tirx.PrimFunc]:
    """Functions that launch an all but empty kernel so many times, by how many."""
    return {count: _launches(count) for count in (FEW, MANY)}


def built(profile: OpenClProfile) -> Any:
    """All of them as one module; its host part is for the profile's host."""
    functions = {kernel.name: kernel.function for kernel in kernels()}
    functions |= {f"launch_{count}": one for count, one in launches().items()}
    with _constant_tables():
        return tvm.tirx.build(tvm.IRModule(functions), target=profile.target, pipeline="s_tir")


def built_check(profile: OpenClProfile) -> Any:
    """A module whose function `CHECK` computes 3 x + 1 of `GROUP` numbers."""

    def append() -> None:
        x, y = (T.arg(name, T.buffer((GROUP,), "float32")) for name in ("x", "y"))
        with launch([1], [GROUP]) as (_, (thread,)):
            T.buffer_store(y, x[thread] * T.float32(3) + T.float32(1), [thread])

    functions = tvm.IRModule({CHECK: function(CHECK, append)})
    return tvm.tirx.build(functions, target=profile.target, pipeline="s_tir")


def _kernel(name: str, about: str, work: float, unit: str, numbers: int, body: Callable[[Any], Any]) -> Kernel:
    where = "in_constant" if name == "uniform_constant" else "in_global"

    def append() -> None:
        x = T.arg(where, T.buffer((numbers,), "float32"))
        y = T.arg("out", T.buffer((ITEMS,), "float32"))
        with launch([GROUPS], [GROUP]) as ((block,), (thread,)):
            item = block * GROUP + thread
            T.buffer_store(y, body(_Place(x, item, thread)), [item])

    return Kernel(name, about, work, unit, function(name, append), (numbers, ITEMS))


@dataclass(frozen=True)
class _Place:
    """What a kernel's body sees: its input, the number of its item, of all and of its group."""

    x: Any
    item: Any
    thread: Any


_QUAD = Vec(4, "float32")


def _sum(width: int) -> Any:
    dtype = "float32" if width == 1 else f"float32x{width}"
    total = T.alloc_buffer((1,), dtype, scope="local")
    T.buffer_store(total, T.float32(0) if width == 1 else T.broadcast(T.float32(0), width), [0])
    return total


def _read(place: _Place, width: int) -> Any:
    total = _sum(width)
    with T.serial(NUMBERS // (ITEMS * width)) as i:
        at = (i * ITEMS + place.item) * width
        value = place.x[at] if width == 1 else place.x[T.ramp(at, 1, width)]
        T.buffer_store(total, total[0] + value, [0])
    return _number(total[0], width)


def _local(place: _Place) -> Any:
    slab = T.alloc_buffer((GROUP,), _QUAD.quad, scope="shared")
    T.buffer_store(slab, _QUAD.load(place.x, place.thread), [place.thread])
    T.evaluate(T.tvm_storage_sync("shared"))
    total = _sum(4)
    with T.serial(GROUP * ROUNDS // 8) as i:
        T.buffer_store(total, total[0] + slab[T.bitwise_and(place.thread + i, GROUP - 1)], [0])
    return _number(total[0], 4)


def _uniform(place: _Place) -> Any:
    total, factor = _sum(4), T.alloc_buffer((1,), _QUAD.quad, scope="local")
    T.buffer_store(factor, _factor(place), [0])  # of its own, or a compiler would compute once for all items
    with T.serial(ROUNDS // 16), T.serial(TABLE) as i:
        T.buffer_store(total, total[0] * factor[0] + _QUAD.load(place.x, i), [0])
    return _number(total[0], 4)


def _factor(place: _Place) -> Any:
    return T.broadcast(T.Cast("float32", place.item) * T.float32(1e-9), 4)


def _accumulate(place: _Place, step: Callable[[Any, Any, Any], Any]) -> Any:
    sums = [_sum(4) for _ in range(ACCUMULATORS)]
    a, b = (T.alloc_buffer((1,), _QUAD.quad, scope="local") for _ in range(2))
    T.buffer_store(a, _factor(place), [0])
    T.buffer_store(b, T.broadcast(place.x[place.item], 4), [0])
    for number, total in enumerate(sums):
        T.buffer_store(total, T.broadcast(T.float32(number), 4), [0])
    with T.serial(STEPS):
        for total in sums:
            T.buffer_store(total, step(total[0], a[0], b[0]), [0])
    whole = sums[0][0]
    for total in sums[1:]:
        whole = whole + total[0]
    return _number(whole, 4)


def _multiply_add(place: _Place) -> Any:
    return _accumulate(place, lambda total, a, b: total * a + b)


def _mad(place: _Place) -> Any:
    return _accumulate(place, lambda total, a, b: T.call_extern(_QUAD.quad, "mad", total, a, b))


def _number(value: Any, width: int) -> Any:
    if width == 1:
        return value
    cell = T.alloc_buffer((1,), f"float32x{width}", scope="local")
    T.buffer_store(cell, value, [0])
    parts = [T.Shuffle([cell[0]], [i]) for i in range(width)]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


def _launches(count: int) -> tvm.tirx.PrimFunc:
    def append() -> None:
        x = T.arg("in_global", T.buffer((GROUP,), "float32"))
        y = T.arg("out", T.buffer((GROUP,), "float32"))
        with T.serial(count), launch([1], [GROUP]) as (_, (thread,)):
            T.buffer_store(y, x[thread], [thread])

    return function(f"launch_{count}", append)


@contextmanager
def _constant_tables() -> Iterator[None]:
    """TVM has no word for `__constant`: where an argument's name asks for it, it is put into the generated source."""
    before = tvm.get_global_func(_POSTPROCESS, allow_missing=True)

    def with_constant(code: str, *rest: Any) -> str:
        code = _CONSTANT.sub(r"__constant float* \1", code)
        return code if before is None else before(code, *rest)

    tvm_ffi.register_global_func(_POSTPROCESS, with_constant, override=True)
    try:
        yield
    finally:
        if before is None:
            tvm_ffi.registry.remove_global_func(_POSTPROCESS)
        else:
            tvm_ffi.register_global_func(_POSTPROCESS, before, override=True)
