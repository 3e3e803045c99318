"""Supervised trackers and servers: started again when they end, gone when their supervisor is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import tvm

from mest_compiler.errors import DeviceError, DeviceLostError
from mest_compiler.runtime.remote import connection
from mest_compiler.runtime.remote.supervisor import Supervisor
from mest_compiler.runtime.remote.where import LOOPBACK, Where

from .programs import NUMBERS, adding
from .test_faults import usable


def belonging_to(folder: str) -> list[psutil.Process]:
    """Processes of a supervisor, sessions included: the orders on their command lines name its folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in process.info["cmdline"] or ()) and process.pid != os.getpid():
            found.append(process)
    return found


def wait_until_gone(folder: str, seconds: float = 20) -> list[psutil.Process]:
    """What is left after a while, which should be nothing."""
    end = time.monotonic() + seconds
    while (left := belonging_to(folder)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def test_a_killed_server_and_a_killed_tracker_come_back() -> None:
    told: list[str] = []
    with Supervisor("twice", say=told.append) as running:
        where = Where.of(tracker=str(running.tracker), key="twice")
        folder, before = running.folder, running.processes()
        assert usable(where)
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 60
        while set(running.processes().values()) & set(before.values()) or not running.registered():
            assert time.monotonic() < end, running.log()
            time.sleep(0.1)
        assert usable(where)
        assert running.restarts == 2
        assert sorted(told) == [f"{name} ended (SIGKILL) and is started again." for name in ("server-0", "tracker")]
        assert len(belonging_to(folder)) == 2
    assert belonging_to(folder) == []
    assert not Path(folder).exists()


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    """Not the session of a client that is still connected either."""
    facts = tmp_path / "facts.json"
    program = (
        "import json, time; from mest_compiler.runtime.remote.supervisor import Supervisor\n"
        "s = Supervisor('alone').start()\n"
        f"open({str(facts)!r}, 'w').write(json.dumps([str(s.tracker), s.folder]))\n"
        "print('ready', flush=True)\ntime.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        tracker, folder = json.loads(facts.read_text())
        with connection.open(Where.of(tracker=tracker, key="alone")) as there:
            there.heartbeat()
            assert len(belonging_to(folder)) == 3  # tracker, server, session
            process.kill()
            process.wait()
            assert wait_until_gone(folder) == []
            with pytest.raises(DeviceLostError, match="ended the connection"):
                there.heartbeat()
        assert not Path(folder).exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_what_cannot_be_served() -> None:
    with pytest.raises(DeviceError, match="'two words' is no key"):
        Supervisor("two words")
    with pytest.raises(DeviceError, match="0 servers serve nobody"):
        Supervisor("any", 0)
    with socket.create_server((LOOPBACK, 0)) as taken, pytest.raises(DeviceError, match="Address already in use"):
        Supervisor("any", port=taken.getsockname()[1])
    with pytest.raises(DeviceError, match=r"Nothing can listen at 192\.0\.2\.1:0"):
        Supervisor("any", host="192.0.2.1")


def test_a_server_that_cannot_start(tmp_path: Path) -> None:
    supervisor = Supervisor("any", environment={"PYTHONPATH": str(tmp_path)})
    (tmp_path / "tvm.py").write_text("raise SystemExit('this TVM is broken')")
    with pytest.raises(DeviceError, match="did not start: this TVM is broken"):
        supervisor.start()
    assert belonging_to(supervisor.folder) == []


@pytest.fixture
def busy(served: Supervisor) -> Iterator[list[float]]:
    """A client that computes all the time, and connects again whenever it has to; yields what it computed."""
    where = Where.of(tracker=str(served.tracker), key=served.key)
    found: list[float] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                there = connection.open(where, request_s=20, wait_s=120, retry_s=60)
                with there, there.during("an addition"):
                    x = tvm.runtime.tensor(np.zeros(NUMBERS), there.device("cpu"))
                    add = there.load(adding(1.0))["add"]
                    for count in range(1, 1000):
                        add(x)
                        found.append(float(x.numpy()[0]) - count)
                        if stop.is_set():
                            return
            except DeviceLostError:
                continue

    thread = threading.Thread(target=client)
    thread.start()
    yield found
    stop.set()
    thread.join(180)
    assert not thread.is_alive()


@pytest.mark.slow
def test_twenty_kills(served: Supervisor, busy: list[float], where: Where) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        time.sleep(rng.uniform(0, 6))
        (victim,) = rng.choice(belonging_to(served.folder) or [None], 1)
        if victim is not None:
            victim.kill()
    computed = len(busy)
    end = time.monotonic() + 120
    while len(busy) < computed + 10:
        assert time.monotonic() < end, served.log()
        time.sleep(0.1)
    assert set(busy) == {0.0}  # every number that came was right
    names = served.processes()
    assert set(names) == {"tracker", "server-0"}
    sessions = [one for one in belonging_to(served.folder) if one.pid not in names.values()]
    assert all(one.ppid() == names["server-0"] for one in sessions)
    assert len(sessions) <= 1
