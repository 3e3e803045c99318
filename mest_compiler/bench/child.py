"""The parent's end of one contestant's process: start it, ask it, bound every wait, and never leave it
behind."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mest_compiler.errors import BenchError

GRACE_S = 2.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TVM_NUM_THREADS")


@dataclass(frozen=True)
class Contestant:
    """What is timed, described so that another process can build it.

    `factory` is "package.module:callable"; it is called with `arguments` (JSON-able) and returns a
    worker.Runner. `environment` is set on top of this process's environment and of the thread counts.
    """

    name: str
    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """The process of a contestant; a context manager that ends the process in every case."""

    def __init__(self, contestant: Contestant, core: int | None) -> None:
        """Start the process, bound to the CPU numbered `core` (None: to none). It builds while `wait_built`
        waits."""
        self.name = contestant.name
        # a file, not a pipe: a pipe that nobody reads would block a contestant that prints a lot
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process; closed by close)
        threads = dict.fromkeys(THREAD_VARIABLES, str(contestant.threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mest_compiler.bench.worker"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **threads, **contestant.environment},
            start_new_session=True,  # Ctrl-C reaches the parent only, which then ends the whole group
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self._received = b""
        self._asleep = False
        self._send(
            {
                "factory": contestant.factory,
                "arguments": dict(contestant.arguments),
                "core": core,
                "parent": os.getpid(),
            }
        )

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_built(self, timeout: float) -> float:
        """Wait until the factory has returned; seconds it took. BenchError if it fails or `timeout` s
        pass."""
        return self._receive("its construction", timeout)["build_s"]

    def ask(self, do: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        """Send the request `do` of worker.REQUESTS and return its answer. BenchError if the contestant fails
        or `timeout` s pass."""
        self._asleep = False
        self._send({"do": do, **arguments})
        return self._receive(f"the request '{do}'", timeout)

    def close(self) -> None:
        """End the process and whatever it started; does nothing the second time."""
        if self._errors.closed:
            return
        self._requests.close()  # the end of its input is a sleeping worker's sign to leave
        try:
            self._process.wait(GRACE_S if self._asleep else 0)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._replies.close()
            self._errors.close()

    def _send(self, request: dict[str, Any]) -> None:
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise self._died() from None

    def _receive(self, what: str, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._replies], [], [], left)[0]:
                raise BenchError(
                    f"contestant '{self.name}' did not finish {what} within {timeout:g} s; "
                    "give it a smaller problem or a longer limit"
                )
            piece = os.read(self._replies.fileno(), 1 << 16)
            if not piece:
                raise self._died()
            self._received += piece
        line, self._received = self._received.split(b"\n", 1)
        self._asleep = True
        return json.loads(line)

    def _died(self) -> BenchError:
        """The error of a process that ended by itself: how, and the last line it left on standard error."""
        try:
            status = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            how = "closed its output"
        else:
            how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it left no message")
        return BenchError(f"contestant '{self.name}' {how}: {last}")
