"""The process of one contestant: `python -m mest_compiler.bench.worker`.

JSON lines on standard input and output, one reply a request; what the contestant itself prints goes to
standard error, and so does the traceback of whatever it raises, after which the process ends with status 1.
The first line says what to build and is answered once it is built; then the requests of `REQUESTS` follow, in
any order, until standard input ends. While no request is there the process is blocked reading, so it takes no
time from the contestant whose turn it is.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TextIO

from mest_compiler.pace import IDLE_S, calm
from mest_compiler.training.memory import peak_rss_mb

PR_SET_PDEATHSIG = 1  # linux/prctl.h
WARM_UP_S = 0.02


class Runner(Protocol):
    """What a factory returns. `result() -> dict` (JSON-able) and `outputs(path) -> None` may be left out."""

    def run(self) -> None:
        """One forward + both gradients, one iteration: what is timed."""


def main() -> None:
    """Serve the parent until it closes standard input."""
    replies = _take_standard_output()
    spec = json.loads(sys.stdin.readline() or "null")
    if spec is None:
        return
    end_with(spec["parent"])
    if spec["core"] is not None:
        os.sched_setaffinity(0, {spec["core"]})
    start = time.perf_counter()
    runner = _factory(spec["factory"])(**spec["arguments"])
    _reply(replies, {"build_s": time.perf_counter() - start})
    for line in sys.stdin:
        request = json.loads(line)
        _reply(replies, REQUESTS[request.pop("do")](runner, **request))


def turn(runner: Runner, seconds: float, fastest: dict[str, float], wait: float) -> dict[str, Any]:
    """Wait until the cores beat as fast as `fastest` says (see `pace`), warm up, then repeat `run` for about `seconds`:
    mean and minimum of the repeats in ms, their number, seconds waited, and the cores' beats before and after."""
    before, waited = calm(fastest, wait)
    warm_until = time.perf_counter() + WARM_UP_S
    runner.run()  # at least once: other contestants have had the caches since
    while time.perf_counter() < warm_until:
        runner.run()
    times = []
    start = last = time.perf_counter()
    while last - start < seconds:
        runner.run()
        now = time.perf_counter()
        times.append(now - last)
        last = now
    after, _ = calm(fastest, IDLE_S)
    return {
        "mean_ms": 1e3 * (last - start) / len(times),
        "min_ms": 1e3 * min(times),
        "repeats": len(times),
        "waited": waited,
        "beats": [before, after],
    }


def outputs(runner: Any, path: str) -> dict[str, bool]:
    """Let the contestant save its arrays to `path`; `saved` is False where it has none to offer."""
    if not hasattr(runner, "outputs"):
        return {"saved": False}
    runner.outputs(Path(path))
    return {"saved": True}


def result(runner: Any) -> dict[str, Any]:
    """What the contestant says about itself ({} where it says nothing) and its peak memory in MiB until then."""
    peak = peak_rss_mb()  # first: to find out what it says may take memory of its own
    said = runner.result() if hasattr(runner, "result") else {}
    return {"result": said, "peak_rss_mb": peak}


REQUESTS: dict[str, Callable[..., dict[str, Any]]] = {"turn": turn, "outputs": outputs, "result": result}


def _take_standard_output() -> TextIO:
    """Keep the pipe to the parent for replies and point file descriptor 1 at standard error, for C code
    too."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _reply(replies: TextIO, answer: dict[str, Any]) -> None:
    replies.write(json.dumps(answer) + "\n")
    replies.flush()


def end_with(parent: int) -> None:
    """Have the kernel end this process when the parent is gone, also in the middle of a run (Linux only)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before we asked
        sys.exit(1)


def _factory(path: str) -> Callable[..., Runner]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    main()
