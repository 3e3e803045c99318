"""Whether the kernels of a module keep the limits of their device: asked before they are built, since TVM does not ask
and a driver says it only when a kernel is launched."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import tvm
import tvm_ffi
from tvm import s_tir, tirx

from mest_compiler.devices import Device
from mest_compiler.errors import DeviceError
from mest_compiler.schedules import backend_of

LOCAL_SCOPES = ("shared", "shared.dyn")


def check_limits(module: tvm.IRModule, device: Device) -> None:
    """Raises DeviceError for the first kernel with more work-items in a work-group, or more local memory, than the
    device has."""
    limits = backend_of(device).limits(device)
    if limits is None:
        return
    for gvar, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            for launch in _launches(function.body):
                items, local_bytes = work_group(launch), local_memory(launch)
                if items > limits.work_items or local_bytes > limits.local_bytes:
                    raise DeviceError(
                        f"The kernel {gvar.name_hint} takes {items} work-items and {local_bytes} bytes of local memory "
                        f"a work-group, and {device.name} has {limits.work_items} and {limits.local_bytes}: choose "
                        "smaller knobs for it."
                    )


def _launches(body: tirx.Stmt) -> Iterator[tirx.Stmt]:
    """The parts of a function that are launched one after another."""
    if isinstance(body, tirx.SeqStmt):
        for part in body.seq:
            yield from _launches(part)
    elif isinstance(body, tirx.For) and body.thread_binding is None:
        yield from _launches(body.body)
    else:
        yield body


def work_group(launch: tirx.Stmt) -> int:
    """Work-items of a work-group."""
    extents: dict[str, int] = {}

    def visit(loop: tirx.For) -> None:
        if loop.thread_binding is not None and str(loop.thread_binding.thread_tag).startswith("threadIdx"):
            tag = str(loop.thread_binding.thread_tag)
            extents[tag] = max(extents.get(tag, 1), int(loop.extent))

    tvm_ffi.structural_walk(launch, (tirx.For, visit))
    return prod(extents.values())


def local_memory(launch: tirx.Stmt) -> int:
    """Bytes of local memory of a work-group."""
    found: list[int] = []

    def count(buffer: tirx.Buffer) -> None:
        if buffer.scope() in LOCAL_SCOPES:
            kind = tvm.DataType(str(buffer.dtype))
            size = np.dtype(str(kind).partition("x")[0]).itemsize * kind.lanes
            found.append(prod(int(n) for n in buffer.shape) * size)

    def count_block(block: s_tir.SBlock) -> None:
        for buffer in block.alloc_buffers:
            count(buffer)

    tvm_ffi.structural_walk(launch, (tirx.AllocBuffer, lambda node: count(node.buffer)))
    tvm_ffi.structural_walk(launch, (s_tir.SBlock, count_block))
    return sum(found)
