"""Kernels beyond the limits of a device are refused before they are built, and the sentence names them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tvm
from tvm.script.ir_builder import tirx as T

from mest_compiler.devices import OpenClProfile, local_cpu
from mest_compiler.errors import DeviceError
from mest_compiler.passes.check_limits import check_limits, local_memory, work_group
from mest_compiler.schedules.emit import function
from mest_compiler.schedules.opencl.emit import launch

DEVICE = OpenClProfile("phone")


def kernel(threads: tuple[int, ...], local: int) -> tvm.tirx.PrimFunc:
    """Y[i] = the work-item's first number, by way of `local` floats of local memory."""

    def emit() -> None:
        y = T.arg("Y", T.buffer((4096,), "int32"))
        for _ in range(2):  # two launches: each has its own work-group
            with launch((4,), threads) as ((group,), items):
                room = T.alloc_buffer((local,), "int32", scope="shared")
                T.buffer_store(room, items[0], [items[0]])
                T.buffer_store(y, room[items[0]], [group * 32 + items[0]])

    return function("filled", emit)


def module(threads: tuple[int, ...], local: int) -> tvm.IRModule:
    return tvm.IRModule({"filled": kernel(threads, local)})


def test_what_keeps_the_limits_passes() -> None:
    check_limits(module((16, 8, 8), 8192), DEVICE)
    body = kernel((16, 8, 2), 100).body
    first = body.seq[-1] if hasattr(body, "seq") else body
    assert (work_group(first), local_memory(first)) == (256, 400)


@pytest.mark.parametrize(("threads", "local"), [((16, 8, 9), 100), ((16, 8), 8193)])
def test_what_does_not_is_named(threads: tuple[int, ...], local: int) -> None:
    with pytest.raises(DeviceError, match=r"kernel filled takes \d+ work-items and \d+ bytes .* phone has 1024 and"):
        check_limits(module(threads, local), DEVICE)
    check_limits(module(threads, local), local_cpu(1))


def test_a_smaller_device_refuses_more() -> None:
    with pytest.raises(DeviceError, match="64 work-items"):
        check_limits(module((16, 4), 10), replace(DEVICE, work_group=32))
