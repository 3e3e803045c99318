"""Looks for one fault: runs pytest in a copied tree to the first failure, and checks that the fault is what failed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from .copied_tree import FaultsError, Tree
from .first_failure import COLLECTING, ONLY, REPORT

FOUND, SURVIVED, TIMED_OUT, FAILS_ANYWAY = "found", "survived", "time-out", "fails without it"
"""What may come of a search. The last: the test that failed does so in the unchanged tree too, so it found nothing."""
PLUGIN = "tests.faults.first_failure"
NO_TESTS, BAD_CALL = 5, (3, 4)
"""Exit codes of pytest: nothing to run, and an error of its own or of its arguments."""


@dataclass(frozen=True)
class Searched:
    """What came of looking for a fault: one of the outcomes above, the test that failed, and the time it took: by the
    clock, and of processors."""

    outcome: str
    test: str
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class _Ran:
    """code: of pytest, None at the time limit; what, test: as `first_failure` has them."""

    code: int | None
    what: str
    test: str


def search(tree: Tree, file: str, content: bytes, tests: Sequence[str], limit_s: float) -> Searched:
    """Runs tests in the tree while one of its files has other bytes.

    Args:
        tests: pytest's arguments. limit_s: seconds after which the search ends.

    Raises:
        FaultsError: pytest does not run these tests.
    """
    started, busy = time.monotonic(), _cpu_seconds()
    with tree.changed(file, content):
        ran = _pytest(tree, tests, limit_s)
    took = time.monotonic() - started, _cpu_seconds() - busy
    if ran.code is None:
        return Searched(TIMED_OUT, ran.test, *took)
    if ran.code == 0:
        return Searched(SURVIVED, "", *took)
    return Searched(FOUND if _passes_alone(tree, tests, ran, limit_s) else FAILS_ANYWAY, ran.test, *took)


def _cpu_seconds() -> float:
    """Of all processes that this one has waited for, and of those that they did."""
    times = os.times()
    return times.children_user + times.children_system


def _passes_alone(tree: Tree, tests: Sequence[str], ran: _Ran, limit_s: float) -> bool:
    """Whether in the unchanged tree the test that failed passes, or its file can be imported."""
    if ran.what == COLLECTING:
        return _pytest(tree, [*tests, "--collect-only"], limit_s).code == 0
    return _pytest(tree, tests, limit_s, only=ran.test).code == 0


def _pytest(tree: Tree, arguments: Sequence[str], limit_s: float, only: str = "") -> _Ran:
    report, log = tree.scratch / "first_failure", tree.scratch / "log"
    report.unlink(missing_ok=True)
    command = [tree.python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", PLUGIN, *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=tree.root, env={**tree.environment, REPORT: str(report), ONLY: only}, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # it and what its tests started
                process.wait()
    if code in BAD_CALL or (code == NO_TESTS and not only):
        said = log.read_text(errors="replace").strip()[-500:]
        raise FaultsError(f"pytest cannot run {' '.join(arguments)} (exit code {code}): {said}")
    what, _, test = report.read_text(encoding="utf-8").partition("\n") if report.exists() else ("", "", "")
    return _Ran(code, what, test)
