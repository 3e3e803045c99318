"""Connections: what is loaded and computed there, two clients on one key, addresses where nobody is."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import tvm

from mest_compiler.bench.probe import check
from mest_compiler.devices import get_device, local_cpu
from mest_compiler.devices.machine_code import machine_of, needs_of
from mest_compiler.errors import ArtifactError, DeviceError, DeviceLostError
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.device_runtimes import opencl_facts as facts
from mest_compiler.runtime.remote import connection, supervisor
from mest_compiler.runtime.remote.connection import Connection
from mest_compiler.runtime.remote.supervisor import Supervisor
from mest_compiler.runtime.remote.tracker import Tracker, Waiting
from mest_compiler.runtime.remote.where import LOOPBACK, Address, Where
from mest_compiler.runtime.remote_session import RemoteSession

from .conftest import KEY
from .programs import NUMBERS, adding


def added(there: Connection, number: float) -> float:
    """What `add` of a freshly loaded library makes of zero."""
    x = tvm.runtime.tensor(np.zeros(NUMBERS), there.device("cpu"))
    there.load(adding(number))["add"](x)
    return x.numpy()[-1]


def test_libraries_of_one_name_do_not_replace_each_other(there: Connection) -> None:
    assert [added(there, number) for number in (1.0, 2.5)] == [1.0, 2.5]


def test_opencl_computes_there(there: Connection) -> None:
    check(get_device("opencl"), there)
    assert facts.opencl_devices(there)[0]["max_work_group"] > 0


def test_code_for_another_machine_is_not_sent(there: Connection) -> None:
    """Asked is the server's LLVM; an artifact is refused before anything else of it is looked at."""
    triple, mcpu = there.llvm()
    said = machine_of(triple, mcpu)
    assert set(needs_of(local_cpu(1).target).features) <= set(said.features)
    for needs, sentence in (
        ({"triple": "aarch64-linux-android", "features": []}, "aarch64-linux-android, and the server's machine is"),
        ({"triple": triple, "features": ["amx-of-tomorrow"]}, r"amx-of-tomorrow, which the server's CPU \(.*\) lacks"),
    ):
        manifest = {
            "device": {"kind": "cpu", "threads": 1},
            "signature": {"step": {"arguments": [], "results": []}},
            "needs": needs,
        }
        with pytest.raises(ArtifactError, match=sentence):
            RemoteSession(Artifact(manifest, b"", {}, {}), there)


def test_a_server_without_opencl_is_sent_ours(stock: Where) -> None:
    with connection.open(stock) as there:
        assert not there.has(facts.DEVICES)
        check(get_device("opencl"), there)
        assert there.has(facts.DEVICES)


def test_a_request_that_fails_leaves_the_connection_usable(there: Connection) -> None:
    x = tvm.runtime.tensor(np.zeros(NUMBERS, np.float32), there.device("cpu"))  # the library wants float64
    module = there.load(adding(1.0))
    with (
        pytest.raises(DeviceError, match=r"The server of 'shared' at the tracker .* during an addition") as raised,
        there.during("an addition"),
    ):
        module["add"](x)
    assert not isinstance(raised.value, DeviceLostError)
    assert added(there, 3.0) == 3.0


def test_no_library(there: Connection) -> None:
    with pytest.raises(DeviceError, match=r"during the loading of library\.so") as raised:
        there.load(b"no library")
    assert not isinstance(raised.value, DeviceLostError)
    assert added(there, 1.0) == 1.0


def test_a_closed_connection_says_so(where: Where) -> None:
    there = connection.open(where)
    there.close()
    there.close()
    with pytest.raises(DeviceLostError, match="it was closed here"):
        there.heartbeat()


def test_two_clients_on_one_key(where: Where) -> None:
    first, told = connection.open(where), threading.Event()
    seen: list[Waiting] = []

    def waiting(progress: Waiting) -> None:
        seen.append(progress)
        told.set()

    found: list[float] = []

    def second() -> None:
        with connection.open(where, waiting=waiting) as there:
            found.append(added(there, 4.0))

    other = threading.Thread(target=second)
    other.start()
    assert told.wait(30)
    assert found == []  # the first one's device is its own
    assert added(first, 1.0) == 1.0
    first.close()
    other.join(30)
    assert found == [4.0]
    assert (seen[0].queue.servers, seen[0].queue.free, seen[0].queue.pending) == (1, 0, 1)


def test_a_wait_has_an_end(where: Where, there: Connection) -> None:
    with pytest.raises(DeviceError, match=r"became free .* within 1 s: 1 in use, 1 waiting"):
        connection.open(where, wait_s=1)


def test_a_busy_server_without_a_tracker(stock: Where) -> None:
    seen: list[Waiting] = []
    with connection.open(stock), pytest.raises(DeviceLostError, match="took no connection within 1 s"):
        connection.open(stock, wait_s=1, retry_s=0, waiting=seen.append)
    assert seen and seen[0].queue is None
    with connection.open(stock, wait_s=30) as there:
        there.heartbeat()


def test_another_key_than_the_servers(stock: Where) -> None:
    other = Where(server=stock.server, key="another")
    with pytest.raises(DeviceLostError, match="goes by another key"):
        connection.open(other, retry_s=0)


def test_unknown_keys(where: Where) -> None:
    near, far = (Where(tracker=where.tracker, key=key) for key in ("sharde", "phone"))
    with pytest.raises(DeviceError, match="knows no device 'sharde': did you mean 'shared'"):
        connection.open(near)
    with pytest.raises(DeviceError, match="knows no device 'phone': it has 'shared'"):
        connection.open(far)
    assert set(Tracker(where.tracker).queues()) == {KEY}  # asking did not make them known


@pytest.mark.parametrize("way", ["tracker", "server"])
def test_nobody_there(way: str) -> None:
    with socket.socket() as free:  # bound, and not listening
        free.bind((LOOPBACK, 0))
        address = f"{LOOPBACK}:{free.getsockname()[1]}"
        where = Where.of(**{way: address}, key="any")
        start = time.monotonic()
        with pytest.raises(DeviceLostError, match=f"No {way} answers at {address}.*start one"):
            connection.open(where, retry_s=1)
        assert time.monotonic() - start > 0.3  # it was tried more than once


def test_something_else_there() -> None:
    """A service that speaks first, such as ssh's."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        address = f"{LOOPBACK}:{listening.getsockname()[1]}"

        def greet() -> None:
            for _ in range(2):
                link, _ = listening.accept()
                with link, suppress(ConnectionResetError):  # who does not like the greeting just leaves
                    link.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                    while link.recv(100):
                        pass

        greeter = threading.Thread(target=greet, daemon=True)
        greeter.start()
        with pytest.raises(DeviceError, match="is no tracker of TVM's"):
            connection.open(Where.of(tracker=address, key="any"), retry_s=0)
        with pytest.raises(DeviceError, match="is no RPC server of TVM's"):
            connection.open(Where.of(server=address), wait_s=20, retry_s=0)
        greeter.join(10)


def test_a_tracker_that_never_answers() -> None:
    with socket.create_server((LOOPBACK, 0)) as listening:
        silent = Tracker(Address(LOOPBACK, listening.getsockname()[1]), answer_s=0.2)
        with pytest.raises(DeviceLostError, match=r"did not answer within 0\.2 s"):
            silent.queues()


@pytest.mark.slow
def test_a_tracker_without_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been started anew, so asking again may help."""
    monkeypatch.setattr(supervisor, "_MISSING_S", 600)  # or the server that is missed is started anew too, and helps
    with Supervisor("any") as running:
        os.kill(running.processes()["server-0"], signal.SIGSTOP)  # registers no more
        os.kill(running.processes()["tracker"], signal.SIGKILL)
        with pytest.raises(DeviceLostError, match="No device is registered at the tracker"):
            connection.open(Where.of(tracker=str(running.tracker), key="any"), retry_s=20)
