"""The plug-in in an RPC server that was started with it: the client only sends and asks."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import rpc

from mest_compiler.runtime.opencl import build

from .kernels import built, does_not_compile, twice_plus_one

SECONDS = 120


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a server of its own process group, which ends with the tests."""
    server = subprocess.Popen(
        [
            sys.executable, "-u", "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1",
            "--port", "9190", "--port-end", "9290", "--load-library", str(build()),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        for line in server.stdout:
            found = re.search(r"bind to [^ ]*:(\d+)", line)
            if found:
                yield int(found[1])
                break
        else:
            raise AssertionError("the server ended before it listened")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def connect(port: int) -> rpc.RPCSession:
    """Connects to a server that has its port but may not listen there yet."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            return rpc.connect("127.0.0.1", port, session_timeout=SECONDS)
        except tvm.error.InternalError as error:
            if "failed" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.1)


@pytest.fixture
def session(port: int) -> Iterator[rpc.RPCSession]:
    """A session; each is a process of its own at the server, and one is served at a time."""
    connected = connect(port)
    yield connected
    connected.get_function("CloseRPCConnection")()


def test_a_kernel_over_rpc(session: rpc.RPCSession, tmp_path: Path) -> None:
    built(good=twice_plus_one("float32"), wrong=does_not_compile()).export_library(tmp_path / "over_rpc.so")
    session.upload(tmp_path / "over_rpc.so")
    module = session.load_module("over_rpc.so")
    device = session.device("opencl", 0)
    assert device.exist
    x = np.random.default_rng(0).standard_normal(64).astype("float32")
    tensor, y = tvm.runtime.tensor(x, device), tvm.runtime.empty((64,), "float32", device)

    start = session.get_function("mest.opencl.profile_start")
    start(0)
    for _ in range(5):
        module["good"](tensor, y)
    times = json.loads(session.get_function("mest.opencl.profile_stop")(0))
    np.testing.assert_array_equal(y.numpy(), 2 * x + 1)
    assert times["commands"]["good_kernel"]["count"] == 5
    assert times["ms"] > 0

    result = module.time_evaluator("good", device, number=10, repeat=3)(tensor, y)
    assert all(seconds > 0 for seconds in result.results)
    with pytest.raises(RuntimeError, match=r"(?s)Kernel 'wrong_kernel' does not compile .*no_such_function"):
        module["wrong"](tensor, y)

    bytes_now = session.get_function("mest.opencl.memory")
    assert json.loads(bytes_now(0))["now"] == 2 * 64 * 4
    del tensor, y
    assert json.loads(bytes_now(0))["now"] == 0


def test_what_a_client_can_ask(session: rpc.RPCSession) -> None:
    assert session.get_function("mest.opencl.problem")() == ""
    found = json.loads(session.get_function("mest.opencl.devices")())
    used = json.loads(session.get_function("mest.opencl.device")(0))
    assert used in found
    for key in ("platform", "vendor", "version", "driver", "compute_units", "max_allocation_bytes", "fp64", "fp16"):
        assert key in used
