"""Faults of a server's OpenCL: kernels that crash, hang or do not compile, and memory that runs out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tvm

from mest_compiler.bench.probe import check
from mest_compiler.devices import get_device
from mest_compiler.errors import DeviceError, DeviceLostError
from mest_compiler.runtime.remote import connection
from mest_compiler.runtime.remote.connection import Connection
from mest_compiler.runtime.remote.where import Where

from .programs import LONG, NUMBERS, scattering, turning, unknown
from .test_faults import Session

FAR = 1 << 40


def usable(where: Where) -> None:
    """The next client gets a session whose OpenCL computes."""
    with connection.open(where, wait_s=60) as there:
        check(get_device("opencl"), there)


def zeros(there: Connection) -> tvm.runtime.Tensor:
    return tvm.runtime.tensor(np.zeros(NUMBERS, np.float32), there.device("opencl"))


def test_a_kernel_that_writes_far_away(there: Connection, where: Where) -> None:
    x, module = zeros(there), there.load(scattering())
    with there.during("a step"):
        module["run"](x, 0)
        assert (x.numpy() == 1).all()
    with (
        pytest.raises(DeviceLostError, match="ended the connection during a step: a kernel crashed there"),
        there.during("a step"),
    ):
        module["run"](x, FAR)
        x.numpy()
    usable(where)


def test_a_kernel_that_never_ends(there: Connection, where: Where, session: Session) -> None:
    x, module, hanging = zeros(there), there.load(turning()), session()
    with there.during("a step"):
        module["run"](x, 60)
        assert (x.numpy() == 2).all()
    with (
        pytest.raises(DeviceLostError, match=r"did not answer within 0\.5 s during a step: it hangs or is too slow"),
        there.during("a step", limit_s=0.5),
    ):
        module["run"](x, LONG)
        x.numpy()
    usable(where)
    assert not hanging.is_running()


def test_a_kernel_that_does_not_compile(there: Connection) -> None:
    x, module = zeros(there), there.load(unknown())
    with (
        pytest.raises(
            DeviceError, match=r"failed during a step: .*'run_kernel' does not compile.*no_such_function"
        ) as e,
        there.during("a step"),
    ):
        module["run"](x, 0)
    assert not isinstance(e.value, DeviceLostError)
    assert len(str(e.value).splitlines()) == 1
    check(get_device("opencl"), there)  # in the same session


def test_out_of_memory(there: Connection) -> None:
    device = there.device("opencl")
    with pytest.raises(DeviceError, match=r"failed during a step: .*memory") as e, there.during("a step"):
        tvm.runtime.empty((FAR,), "float32", device)
    assert not isinstance(e.value, DeviceLostError)
    check(get_device("opencl"), there)
    assert json.loads(there.function("mest.opencl.memory")(0))["now"] == 0
