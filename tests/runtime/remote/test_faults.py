"""Faults: whatever happens to a session, its client hears of it in a sentence, and the server serves the next one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import psutil
import pytest
import tvm

from mest_compiler.errors import DeviceLostError
from mest_compiler.runtime.remote import connection
from mest_compiler.runtime.remote.connection import Connection
from mest_compiler.runtime.remote.supervisor import Supervisor
from mest_compiler.runtime.remote.where import Where

from .programs import NUMBERS, adding, crashing, long

Session = Callable[[], psutil.Process]


def usable(where: Where) -> bool:
    """Whether the next client gets a session that computes."""
    with connection.open(where, wait_s=60) as there:
        x = tvm.runtime.tensor(np.zeros(NUMBERS), there.device("cpu"))
        with there.during("an addition"):
            there.load(adding(1.0))["add"](x)
            return bool((x.numpy() == 1).all())


def later(act: Callable[[], object], seconds: float = 0.3) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


def test_a_kernel_that_crashes(there: Connection, where: Where) -> None:
    x = tvm.runtime.tensor(np.zeros(NUMBERS), there.device("cpu"))
    module = there.load(crashing())
    with (
        pytest.raises(DeviceLostError, match="ended the connection during a step: a kernel crashed there"),
        there.during("a step"),
    ):
        module["crash"](x)
    with (
        pytest.raises(DeviceLostError, match=r"is closed .*, which ends a second step: connect again"),
        there.during("a second step"),
    ):
        x.numpy()
    del x, module  # what lived there is given up without an error
    assert not there.alive
    assert usable(where)


def test_killed_in_mid_call(there: Connection, where: Where, session: Session) -> None:
    x = tvm.runtime.tensor(np.zeros(NUMBERS), there.device("cpu"))
    module = there.load(long())
    killing = later(session().kill)
    with pytest.raises(DeviceLostError, match="ended the connection during a step"), there.during("a step"):
        module["spin"](x)
    killing.join()
    assert usable(where)


def test_a_device_that_never_answers(there: Connection, where: Where, session: Session) -> None:
    x = tvm.runtime.tensor(np.zeros(NUMBERS), there.device("cpu"))
    module = there.load(long())
    hanging, start = session(), time.monotonic()
    with (
        pytest.raises(DeviceLostError, match=r"did not answer within 0\.5 s during a step"),
        there.during("a step", limit_s=0.5),
    ):
        module["spin"](x)
    assert time.monotonic() - start < 20
    with pytest.raises(DeviceLostError, match=r"no answer within 0\.5 s"):
        there.heartbeat()
    assert usable(where)  # the server gave up on the kernel that nobody waits for
    assert not hanging.is_running()


def test_a_limit_is_one_contexts_own(there: Connection) -> None:
    x, module = tvm.runtime.tensor(np.zeros(NUMBERS), there.device("cpu")), there.load(long())
    with pytest.raises(DeviceLostError, match=r"within 0\.3 s during a step"), there.during("a step", limit_s=0.3):
        with there.during("a part of it", limit_s=60):
            there.heartbeat()
        module["spin"](x)


def test_an_upload_that_is_cut_off(there: Connection, where: Where, session: Session) -> None:
    there.device("cpu")
    receiver = session()
    receiver.suspend()  # takes what the socket's buffers hold and no more
    killing = later(receiver.kill)
    with pytest.raises(DeviceLostError, match=r"ended the connection during the upload of library\.so \(67\.1 MB\)"):
        there.load(bytes(1 << 26))
    killing.join()
    assert usable(where)


def test_an_answer_that_comes_late_is_not_the_next_ones(there: Connection, session: Session) -> None:
    """Freeing a tensor is a request too, and TVM ignores that it fails."""
    x, y = (tvm.runtime.tensor(np.full(NUMBERS, n), there.device("cpu")) for n in (1.0, 2.0))
    with there.during("a step", limit_s=0.5):
        session().suspend()
        try:
            del x
        finally:
            session().resume()
        time.sleep(0.2)  # the answer has come by now
    with pytest.raises(DeviceLostError, match="a request in it was given up"), there.during("a second step"):
        y.numpy()


@pytest.mark.slow
def test_a_tracker_that_goes(served: Supervisor, there: Connection, where: Where) -> None:
    """Who has a session keeps it; who wants one waits until the tracker is there again."""
    x, module = tvm.runtime.tensor(np.zeros(NUMBERS), there.device("cpu")), there.load(adding(1.0))
    tracker = served.processes()["tracker"]
    os.kill(tracker, signal.SIGKILL)
    with there.during("an addition"):
        module["add"](x)
        assert (x.numpy() == 1).all()
    there.close()
    with connection.open(where, wait_s=60, retry_s=90) as again:
        again.heartbeat()
    assert served.processes()["tracker"] != tracker


def test_ctrl_c_ends_the_connection(there: Connection, where: Where) -> None:
    with pytest.raises(KeyboardInterrupt), there.during("a step"):
        raise KeyboardInterrupt
    with pytest.raises(DeviceLostError, match="it was interrupted"):
        there.heartbeat()
    assert usable(where)
