"""Tuning over RPC with real supervised servers of this machine's CPU: their trials count as any others, and a server
that ends costs none."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from mest_compiler.errors import DeviceError
from mest_compiler.runtime.remote import connection
from mest_compiler.runtime.remote.supervisor import Supervisor
from mest_compiler.runtime.remote.where import Where
from mest_compiler.tuning.database import read_log
from mest_compiler.tuning.search import Budget, tune

from .test_search import CONFIG, DEVICE, TASK

pytestmark = pytest.mark.slow


def opener(served: Supervisor) -> partial:
    where = Where.of(tracker=str(served.tracker), key=served.key)
    return partial(connection.open, where, request_s=20, wait_s=40, retry_s=20)


def test_two_servers_share_the_work(tmp_path: Path) -> None:
    with Supervisor("tuned", 2) as served:
        (found,) = tune({TASK: 1.0}, DEVICE, tmp_path, Budget(10), places=[opener(served)] * 2, config=CONFIG)
    assert (found.trials, found.failed) == (10, 0) and found.best <= found.default


def test_a_server_that_is_killed_costs_no_trial(tmp_path: Path) -> None:
    def kill(done: int, total: int, what: str) -> None:
        if done == 3:
            for process in psutil.Process(served.processes()["server-0"]).children(recursive=True):
                process.kill()

    with Supervisor("killed") as served:
        (found,) = tune(
            {TASK: 1.0}, DEVICE, tmp_path, Budget(8), places=[opener(served)], config=CONFIG, progress=kill
        )  # fmt: skip
    assert (found.trials, found.failed) == (8, 0)


def test_a_server_that_dies_for_good(tmp_path: Path) -> None:
    with Supervisor("dying") as served:

        def end(done: int, total: int, what: str) -> None:
            if done == 3:
                threading.Thread(target=served.close).start()
                time.sleep(1)

        with pytest.raises(DeviceError, match="No device is left to measure on"):
            tune({TASK: 1.0}, DEVICE, tmp_path, Budget(8), places=[opener(served)], config=CONFIG, progress=end)
    log = read_log(tmp_path / DEVICE.record_folder)
    assert len(log.trials) >= 3 and log.damaged == [] and all(trial.seconds for _, trial in log.trials)
