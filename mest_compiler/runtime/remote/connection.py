"""A connection to a TVM RPC server in which every wait has a limit and every failure is a sentence."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import tvm
from tvm import rpc

from mest_compiler.errors import DeviceError, DeviceLostError, MestError
from mest_compiler.runtime.device_runtimes import device_runtime

from . import adb
from .sockets import Wire, open_sockets
from .tracker import Tracker, Waiting, WaitingCallback
from .where import Address, Where

REQUEST_S = 120.0
"""Seconds that a request may take: the longest is a training step, and a phone compiles its kernels in the first."""
WAIT_S = 3600.0
"""Seconds to wait for a device that others use."""
RETRY_S = 6.0
"""Seconds of trying again, with growing pauses, where nobody answers or a server goes away at once."""
HANDSHAKE_S = 10.0
HEARTBEAT_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_ALIVE = "runtime.RPCTimeEvaluator"
"""A function that every server has; asking for it is the smallest request."""
_TRIPLE, _CPU = "target.llvm_get_system_triple", "target.llvm_get_system_cpu"
"""Functions of a server that has a compiler."""
_FROM_THERE = "RPCError: Error caught from RPC call"
"""Before what the server said, in TVM's errors."""
_LONGEST = 1000
"""Characters of what a server says that a sentence quotes."""

Result = TypeVar("Result")
_one_at_a_time = threading.Lock()


class Connection:
    """A session of a server. Close it, or use it as a context, so that the next client need not wait.

    session: TVM's. where: for sentences. request_s: the limit of a request.
    """

    def __init__(self, session: rpc.RPCSession, wire: Wire, where: str, request_s: float, held: ExitStack) -> None:
        self.session, self.where, self.request_s = session, where, request_s
        self._wire, self._held = wire, held
        self._lost: str | None = None
        self._limit_s = request_s  # of the context that is entered at present
        wire.keep_alive()
        wire.limit(request_s)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether nothing has ended it so far, as far as is known without asking; see `heartbeat`."""
        return self._lost is None

    # ---- what is there
    def device(self, kind: str, index: int = 0) -> tvm.runtime.Device:
        """The device "cpu" or "opencl" there; a server of this machine's kind that lacks its runtime is sent ours.

        Raises:
            DeviceError: there is none.
        """
        with self.during(f"the search for the device {kind!r}"):
            device = self.session.device(kind, index)
            if not self.has(f"device_api.{kind}"):
                self._send_plugin(kind)
            if not device.exist:
                raise DeviceError(
                    f"There is no {kind} device at the server {self.where}: see what it has, with mest devices."
                )
            return device

    def has(self, name: str) -> bool:
        """Whether the server has a global function of this name."""
        try:
            self.session.get_function(name)
        except AttributeError:
            return False
        return True

    def llvm(self) -> tuple[str, str] | None:
        """LLVM's triple and name of the CPU there; None: a server without a compiler, such as a phone's tvm_rpc."""
        if not self.has(_TRIPLE):
            return None
        triple, mcpu = (self.function(name) for name in (_TRIPLE, _CPU))
        with self.during("the search for its machine"):
            return str(triple()), str(mcpu())

    def function(self, name: str) -> Callable[..., Any]:
        """A global function of the server."""
        with self.during(f"the search for the function {name!r}"):
            return self.session.get_function(name)

    def load(self, library: bytes, name: str = "library.so") -> tvm.runtime.Module:
        """The module of a shared library, sent there under a name of its own: a server that has loaded a path once
        returns the old library for ever.

        Raises:
            DeviceLostError: cut off. DeviceError: what was sent cannot be loaded there.
        """
        stem, dot, ending = name.partition(".")
        unique = f"{stem}-{secrets.token_hex(8)}{dot}{ending}"
        with self.during(f"the upload of {name} ({len(library) / 1e6:.1f} MB)"):
            self.session.upload(bytearray(library), unique)
        with self.during(f"the loading of {name}"):
            return self.session.load_module(unique)

    def _send_plugin(self, kind: str) -> None:
        try:
            plugin = device_runtime(kind).plugin()
            if plugin is not None:
                self.load(plugin.read_bytes(), f"{kind}_plugin.so")
        except DeviceLostError:
            raise
        except MestError as error:
            raise DeviceError(
                f"The server {self.where} has no {kind} runtime, and this machine's does not load there ({error}): "
                "build that server with it."
            ) from error

    # ---- limits and failures
    @contextmanager
    def during(self, what: str, limit_s: float | None = None) -> Iterator[None]:
        """What is done here is called `what` in sentences ("the training step"); each request may take `limit_s`,
        None: as long as outside of it.

        Raises:
            DeviceLostError: the server went away or did not answer in time; the connection is of no use then.
            DeviceError: the server is well, and what it was asked for failed.
        """
        self._check(what)
        around, limit = self._limit_s, self._limit_s if limit_s is None else limit_s
        self._limit(limit)
        start = time.monotonic()
        try:
            yield
        except MestError:
            raise
        except Exception as error:  # TVM's errors are of many kinds, and a server's are sent over by name
            raise self._failed(what, error, limit, time.monotonic() - start) from error
        except BaseException:  # Ctrl-C: an answer may still be owed
            self._lose("it was interrupted")
            raise
        finally:
            self._limit(around)

    def heartbeat(self, limit_s: float = HEARTBEAT_S) -> float:
        """Seconds that the smallest request takes; raises DeviceLostError where none is answered."""
        start = time.monotonic()
        with self.during("a sign of life", limit_s):
            self.session.get_function(_ALIVE)
        return time.monotonic() - start

    def _check(self, what: str) -> None:
        if self._lost is None and self._wire.out_of_step():
            self._lose("a request in it was given up")
        if self._lost is not None:
            raise DeviceLostError(
                f"The connection to the server {self.where} is closed ({self._lost}), which ends {what}: connect again."
            )

    def _failed(self, what: str, error: Exception, limit: float, seconds: float) -> MestError:
        told = _last_line(error)
        if _FROM_THERE in str(error):
            return DeviceError(f"The server {self.where} failed during {what}: {_told_there(error)}")
        if isinstance(error, (AttributeError, TypeError)) and not self._wire.out_of_step():
            return DeviceError(f"The server {self.where} cannot do what {what} needs: {told}")
        if "temporarily unavailable" in str(error) or seconds >= limit:
            self._lose(f"no answer within {limit:g} s")
            return DeviceLostError(
                f"The server {self.where} did not answer within {limit:g} s during {what}: it hangs or is too slow, so "
                "restart it, or allow more time."
            )
        self._lose("the server ended it")
        return DeviceLostError(
            f"The server {self.where} ended the connection during {what}: a kernel crashed there, or it was "
            "stopped; its log says more."
        )

    def _limit(self, seconds: float) -> None:
        self._limit_s = seconds
        if self._lost is None:
            self._wire.limit(seconds)

    def _lose(self, why: str) -> None:
        self._lost = self._lost or why
        self._wire.cut()

    def close(self) -> None:
        """Ends the session; tensors and modules of it are of no use afterwards. Does nothing the second time."""
        if self._lost is None:
            self._lost = "it was closed here"
            self._wire.limit(HEARTBEAT_S)
            self._wire.cut()
        self._wire.close()
        self._held.close()


def open(
    where: Where, *, request_s: float = REQUEST_S, wait_s: float = WAIT_S, retry_s: float = RETRY_S,
    waiting: WaitingCallback | None = None,
) -> Connection:  # fmt: skip
    """Connects to a server.

    Args:
        where: see there. request_s: limit of each request. wait_s: how long to wait for a device that is in use;
            `waiting` is told about it twice a second. retry_s: how long to try again where nobody answers.

    Raises:
        DeviceLostError: nobody answers. DeviceError: an unknown key, no device in time, or no server of TVM's.
    """
    with ExitStack() as held:
        if where.tracker is not None:
            wire_and_session = _by_tracker(Tracker(where.tracker), where.key, wait_s, retry_s, waiting)
        else:
            address = where.server or held.enter_context(adb.forwarded(where.adb, where.adb_port))
            wire_and_session = _retried(lambda: _handshake(address, where.key, wait_s, waiting), retry_s)
        wire, session = wire_and_session
        return Connection(session, wire, str(where), request_s, held.pop_all())


def _by_tracker(
    tracker: Tracker, key: str, wait_s: float, retry_s: float, waiting: WaitingCallback | None
) -> tuple[Wire, rpc.RPCSession]:
    def once() -> tuple[Wire, rpc.RPCSession]:
        grant = tracker.request(key, wait_s, waiting)
        return _handshake(grant.address, grant.match_key, HANDSHAKE_S, None)

    return _retried(once, retry_s)


def _retried(attempt: Callable[[], Result], retry_s: float) -> Result:
    """What an attempt gives; one that ends in DeviceLostError is made again after a pause."""
    pause, tried = _FIRST_PAUSE_S, 0.0
    while True:
        start = time.monotonic()
        try:
            return attempt()
        except DeviceLostError:
            # Only failures count: an attempt may have waited long in a queue before it failed.
            tried += pause + min(time.monotonic() - start, HANDSHAKE_S)
            if tried > retry_s:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _handshake(
    address: Address, key: str, wait_s: float, waiting: WaitingCallback | None
) -> tuple[Wire, rpc.RPCSession]:
    """TVM's own connecting, which knows no limits, in a thread that can be cut off."""
    found: list[Any] = []

    def connect() -> None:
        try:
            found.append(rpc.connect(address.host, address.port, key))
        except Exception as error:
            found.append(error)

    with _one_at_a_time:  # so that a new socket to that port is ours
        before, start = open_sockets(), time.monotonic()
        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.5)
                seconds = time.monotonic() - start
                if thread.is_alive() and seconds > wait_s:
                    raise DeviceLostError(
                        f"The server at {address} took no connection within {wait_s:.0f} s: it serves another client, "
                        "hangs, or is no server of TVM's."
                    )
                if thread.is_alive() and waiting is not None:
                    waiting(Waiting(seconds, wait_s, None))
        except BaseException:
            if (wire := Wire.since(before, address.port)) is not None:
                wire.cut()
                wire.close()
            raise
        (session,) = found
        if isinstance(session, Exception):
            raise _refused(address, session) from session
        wire = Wire.since(before, address.port)
    if wire is None:
        raise DeviceLostError(f"The server at {address} ended the connection at once: see its log.")
    return wire, session


def _refused(address: Address, error: Exception) -> DeviceError:
    text = str(error)
    if "is not TVM RPC server" in text:
        return DeviceError(f"What answers at {address} is no RPC server of TVM's: check the port.")
    if "matches key" in text:
        return DeviceLostError(f"The server at {address} goes by another key, or has been given to another client.")
    return DeviceLostError(f"No server answers at {address}: start one there, or check the address.")


def _told_there(error: Exception) -> str:
    """What the server said, in one line: all of a sentence of ours, which has a compiler's log in further lines; of
    what TVM says, with a traceback before it, the last line."""
    text = str(error).rpartition(_FROM_THERE)[2].lstrip(":")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or any(line.startswith(("Traceback", "File ")) for line in lines):
        return _last_line(error)
    return " ".join([lines[0], "; ".join(lines[1:])]).strip()[:_LONGEST]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:_LONGEST]
