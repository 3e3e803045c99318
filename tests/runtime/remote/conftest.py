"""A supervised tracker and server with the OpenCL plug-in, and a server as TVM's wheel starts it; shared by all tests:
each leaves them usable."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from mest_compiler.runtime import opencl
from mest_compiler.runtime.remote import connection
from mest_compiler.runtime.remote.connection import Connection
from mest_compiler.runtime.remote.supervisor import Supervisor
from mest_compiler.runtime.remote.where import LOOPBACK, Where

KEY = "shared"


@pytest.fixture(scope="session")
def served() -> Iterator[Supervisor]:
    with Supervisor(KEY, libraries=[str(opencl.build())]) as running:
        yield running


@pytest.fixture
def where(served: Supervisor) -> Where:
    return Where.of(tracker=str(served.tracker), key=KEY)


@pytest.fixture
def there(where: Where) -> Iterator[Connection]:
    """A connection to the supervised server."""
    with connection.open(where, request_s=30, wait_s=60) as one:
        yield one


@pytest.fixture
def session(served: Supervisor) -> Callable[[], psutil.Process]:
    """The process in which the server serves its client at present."""

    def find() -> psutil.Process:
        (process,) = psutil.Process(served.processes()["server-0"]).children()
        return process

    return find


@pytest.fixture(scope="session")
def stock() -> Iterator[Where]:
    """TVM's own server, without OpenCL and without a tracker."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    program = (
        "from tvm.rpc.server import PopenRPCServerState as S\n"
        f"s = S({LOOPBACK!r}, {port}, {port + 1}, key='stock', silent=True)\n"
        "print('ready', flush=True)\ns.thread.join()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout.readline() == b"ready\n"
        yield Where.of(server=f"{LOOPBACK}:{port}", key="stock")
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait()
