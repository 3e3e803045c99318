"""A plugin of pytest that writes down which test failed first, or was running when the process ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPORT, ONLY = "MEST_FIRST_FAILURE", "MEST_ONLY_TEST"
"""Environment variables: the file that is written, and the one test that runs of those that were asked for."""
RUNNING, FAILED, COLLECTING = "running", "failed", "collecting"
"""What the file's first line says of the test on its second: it began, it failed, or its file cannot be imported."""


def _write(what: str, nodeid: str) -> None:
    Path(os.environ[REPORT]).write_text(f"{what}\n{nodeid}", encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out all tests but the one that is wanted, if one is."""
    only = os.environ.get(ONLY)
    if only:
        items[:] = [item for item in items if item.nodeid == only]


def pytest_runtest_logstart(nodeid: str) -> None:
    """A test begins: a process that crashes was in this one."""
    _write(RUNNING, nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test went wrong, and as pytest runs to the first failure no other follows."""
    if report.failed:
        _write(FAILED, report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file of tests cannot be imported."""
    if report.failed:
        _write(COLLECTING, report.nodeid)
