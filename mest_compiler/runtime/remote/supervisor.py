"""A tracker and servers of this machine that are started again when they end, and never outlive who started them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from mest_compiler.errors import DeviceError, MestError

from .tracker import Tracker
from .where import LOOPBACK, Address

START_S = 90.0
_LOOK_S, _PROBE_S = 0.1, 3.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_SETTLED_S = 20.0
"""After this long a process counts as well: its next failure is its first."""
_MISSING_S = 30.0
"""So long an idle server may be missing at the tracker, or the tracker silent, before it is started anew."""
_OWN_GROUP: Mapping[str, bool] = {"start_new_session": True}

Say = Callable[[str], None]


class Supervisor:
    """Servers of one kind under one key, at a tracker of their own; a context manager.

    tracker: its address. restarts: how many processes were started again. folder: of logs and of what clients send.
    """

    def __init__(
        self, key: str, servers: int = 1, *, host: str = LOOPBACK, port: int = 0, libraries: Sequence[str] = (),
        environment: Mapping[str, str] | None = None, say: Say | None = None,
    ) -> None:  # fmt: skip
        """Args: key: of the servers. host: the address to listen at; anyone who reaches it can run code here. port: of
        the tracker; 0: a free one. libraries: loaded in every session (the OpenCL plug-in). say: told of restarts."""
        if servers < 1:
            raise DeviceError(f"{servers} servers serve nobody: ask for at least one.")
        if not key or ":" in key or key.split() != [key]:
            raise DeviceError(f"{key!r} is no key: it is one word without colons, such as opencl.")
        _check_free(host, port)
        self.key, self.restarts = key, 0
        self.tracker = Address(_reachable(host), port or _free_port(host))
        self._say = say or (lambda sentence: None)
        self._folder = Path(tempfile.mkdtemp(prefix="mest-serve-"))
        self.folder = str(self._folder)
        self._environment = {**os.environ, **(environment or {})}
        where = {"host": host, "folder": self.folder}
        tracker = {"role": "tracker", **where, "port": self.tracker.port}
        server = {
            "role": "server", **where, "key": key, "tracker": [self.tracker.host, self.tracker.port],
            "libraries": [str(Path(library).resolve()) for library in libraries],
        }  # fmt: skip
        orders = [("tracker", tracker), *((f"server-{number}", server) for number in range(servers))]
        self._children = [_Child(name, order, self._folder / name, self._environment) for name, order in orders]
        self._closing = threading.Event()
        self._monitor = threading.Thread(target=self._watch, name="mest-supervisor", daemon=True)
        self._closed = False

    def __enter__(self) -> Supervisor:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, limit_s: float = START_S) -> Supervisor:
        """Starts everything and waits until the tracker lists all servers.

        Raises:
            DeviceError: it did not within `limit_s`; nothing runs then.
        """
        self._monitor.start()
        deadline = time.monotonic() + limit_s
        try:
            while len(self.registered()) < len(self._children) - 1:
                if time.monotonic() > deadline or any(child.failures > 3 for child in self._children):
                    raise DeviceError(f"The tracker and its servers did not start: {self._last_words()}")
                time.sleep(_LOOK_S)
        except BaseException:
            self.close()
            raise
        return self

    def registered(self) -> tuple[int, ...]:
        """Ports of the servers that the tracker lists; none where it does not answer."""
        with suppress(MestError):
            if (queue := Tracker(self.tracker, 2.0).queues().get(self.key)) is not None:
                return queue.ports
        return ()

    def processes(self) -> dict[str, int]:
        """Process ids of the tracker and the servers that run at present, by name."""
        return {child.name: child.process.pid for child in self._children if child.runs()}

    def log(self) -> str:
        """What all of them have written, for the search for causes."""
        return "".join(child.log() for child in self._children)

    def close(self) -> None:
        """Ends all processes; does nothing the second time."""
        if self._closed:
            return
        self._closed = True
        self._closing.set()
        if self._monitor.is_alive():
            self._monitor.join()
        for child in self._children:
            child.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _watch(self) -> None:
        probed = 0.0
        while not self._closing.wait(_LOOK_S):
            for child in self._children:
                if child.due():
                    with suppress(OSError):  # no memory or no files left at the moment: at the next look
                        self._start(child)
            if time.monotonic() - probed > _PROBE_S:
                self._probe()
                probed = time.monotonic()

    def _start(self, child: _Child) -> None:
        if child.starts:
            self.restarts += 1
            self._tell(f"{child.name} ended ({child.how_it_ended()}) and is started again.")
        child.start()

    def _tell(self, sentence: str) -> None:
        with suppress(OSError, ValueError):  # the terminal may be gone, and serving goes on
            self._say(sentence)

    def _probe(self) -> None:
        """Start anew what runs and does not serve: a tracker that is silent, a server that it does not list."""
        tracker, *servers = self._children
        try:
            queues = Tracker(self.tracker, 2.0).queues()
        except MestError:
            if tracker.missing() > _MISSING_S:
                self._tell("The tracker does not answer and is started again.")
                tracker.end()
            return
        tracker.seen()
        ports = queues[self.key].ports if self.key in queues else ()
        for server in servers:
            # A server that is busy notices only afterwards that the tracker was started anew.
            if server.order.get("port") in ports or server.busy():
                server.seen()
            elif server.missing() > _MISSING_S:
                self._tell(f"{server.name} is not registered any more and is started again.")
                server.end()

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.log().splitlines() if line.strip()]
        return lines[-1] if lines else "they left no message."


class _Child:
    """A process that is started again and again: in a process group of its own, tied to this process by a pipe."""

    def __init__(self, name: str, order: dict[str, object], folder: Path, environment: Mapping[str, str]) -> None:
        self.name, self.order, self.failures, self.starts = name, order, 0, 0
        self.process: subprocess.Popen[bytes] | None = None
        self._folder, self._environment = folder, environment
        self._begun = self._seen = self._next = 0.0
        self._own_port = "port" not in order

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)  # of sessions that were killed
        temporary.mkdir()
        if self._own_port:
            self.order["port"] = _free_port(str(self.order["host"]))
        self.starts += 1
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mest_compiler.runtime.remote.serving", json.dumps(self.order)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env={**self._environment, "TMPDIR": str(temporary)},
                **_OWN_GROUP,
            )  # fmt: skip
        self._begun = self._seen = time.monotonic()

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def due(self) -> bool:
        """Whether it is time to start it; ends what a process that has ended left behind."""
        now = time.monotonic()
        if self.runs():
            return False
        if self.process is not None and self._next < self._begun:  # it has ended since the last look
            self.end()
            self.failures = 1 if now - self._begun > _SETTLED_S else self.failures + 1
            self._next = now + min(_FIRST_PAUSE_S * 2 ** (self.failures - 1), _LONGEST_PAUSE_S)
        return now >= self._next

    def how_it_ended(self) -> str:
        code = self.process.returncode if self.process is not None else None
        return signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"

    def busy(self) -> bool:
        """Whether it runs a client's session."""
        with suppress(psutil.Error):
            return bool(psutil.Process(self.process.pid).children())
        return False

    def seen(self) -> None:
        self._seen = time.monotonic()

    def missing(self) -> float:
        return time.monotonic() - self._seen

    def end(self) -> None:
        """Its whole process group, and waits for it."""
        if self.process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with suppress(OSError):
            self.process.stdin.close()

    def log(self) -> str:
        path = self._folder / "log"
        return path.read_text(errors="replace") if path.is_file() else ""


def _reachable(host: str) -> str:
    return LOOPBACK if host in ("", "0.0.0.0") else host


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _free_port(host: str) -> int:
    with socket.socket(_family(host)) as one:
        one.bind((host, 0))
        return one.getsockname()[1]


def _check_free(host: str, port: int) -> None:
    try:
        with socket.socket(_family(host)) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the tracker itself does
            one.bind((host, port))
    except OSError as error:
        raise DeviceError(
            f"Nothing can listen at {host}:{port} ({error.strerror or error}): choose another --port or --host."
        ) from error
