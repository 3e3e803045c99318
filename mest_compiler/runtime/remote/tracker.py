"""Asking a TVM tracker which servers there are, and waiting for a free one, with limits on every wait."""

from __future__ import annotations

import difflib
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tvm.rpc import base

from mest_compiler.errors import DeviceError, DeviceLostError

from .where import LOOPBACK, Address

ANSWER_S = 5.0
"""Within this a tracker answers."""
GONE_S = 20.0
"""So long a key may be without any server before a wait for one ends: a supervisor may be restarting it."""
_TICK_S = 0.5
_PRIORITY = 1


@dataclass(frozen=True)
class Queue:
    """Servers of a key: how many there are, how many of them are free, how many clients wait, where they listen."""

    servers: int
    free: int
    pending: int
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Waiting:
    """Progress of a wait: seconds so far, for how long at most, and the queue (None: a server without a tracker)."""

    seconds: float
    limit: float
    queue: Queue | None


WaitingCallback = Callable[[Waiting], None]


@dataclass(frozen=True)
class Grant:
    """A server that the tracker hands out, and the key that it accepts once."""

    address: Address
    match_key: str


class Tracker:
    """A tracker at an address; every question opens a connection of its own."""

    def __init__(self, address: Address, answer_s: float = ANSWER_S) -> None:
        self.address, self.answer_s = address, answer_s

    def queues(self) -> dict[str, Queue]:
        """Every key that has servers or has had some.

        Raises:
            DeviceLostError: no answer. DeviceError: something else answers there.
        """
        with self._connection() as link:
            base.sendjson(link, [base.TrackerCode.SUMMARY])
            code, summary = base.recvjson(link)
        if code != base.TrackerCode.SUCCESS:
            raise DeviceError(f"The tracker at {self.address} did not say what it knows: is it TVM's?")
        ports: dict[str, list[int]] = {key: [] for key in summary["queue_info"]}
        for server in summary["server_info"]:
            ports.setdefault(server["key"].removeprefix("server:"), []).append(int(server["addr"][1]))
        empty = {"free": 0, "pending": 0}
        return {
            key: Queue(len(some), **{**empty, **summary["queue_info"].get(key, {})}, ports=tuple(sorted(some)))
            for key, some in sorted(ports.items())
        }

    def request(self, key: str, wait_s: float, waiting: WaitingCallback | None = None) -> Grant:
        """A free server of the key, waited for in the tracker's queue.

        Raises:
            DeviceError: a key that nothing was ever registered under, or none free within `wait_s`.
            DeviceLostError: the tracker went away.
        """
        self.check(key)
        start = seen = time.monotonic()
        with self._connection() as link:
            base.sendjson(link, [base.TrackerCode.REQUEST, key, "", _PRIORITY])
            while not select.select([link], [], [], _TICK_S)[0]:
                queue, now = self.queues().get(key), time.monotonic()
                if queue is None:  # it does not know of this request any more
                    raise DeviceLostError(f"The tracker at {self.address} was started anew meanwhile: ask again.")
                seen = now if queue.servers else seen
                if waiting is not None:
                    waiting(Waiting(now - start, wait_s, queue))
                if now - start > wait_s:
                    raise DeviceError(
                        f"No device of {key!r} became free at the tracker {self.address} within {wait_s:.0f} s: "
                        f"{queue.servers} in use, {queue.pending} waiting."
                    )
                if now - seen > GONE_S:
                    raise DeviceError(
                        f"The servers of {key!r} are gone from the tracker {self.address}: start one again there."
                    )
            code, found = base.recvjson(link)
        if code != base.TrackerCode.SUCCESS:
            raise DeviceError(f"The tracker at {self.address} refused to hand out a device of {key!r}: is it TVM's?")
        host, port, match_key = found
        if host in (LOOPBACK, "::1", "localhost"):  # as seen from the tracker
            host = self.address.host
        return Grant(Address(host, port), match_key)

    def check(self, key: str) -> None:
        """Raises DeviceError for a key that no server was ever registered under, DeviceLostError where that holds for
        all keys: the tracker may have been started anew, and its servers come back."""
        known = self.queues()
        if key in known:
            return
        if not known:
            raise DeviceLostError(f"No device is registered at the tracker {self.address}: start a server there.")
        close = difflib.get_close_matches(key, known, 1)
        meant = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, known))}."
        raise DeviceError(f"The tracker at {self.address} knows no device {key!r}: {meant}")

    @contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        try:
            with socket.create_connection((self.address.host, self.address.port), self.answer_s) as link:
                link.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
                if struct.unpack("<i", base.recvall(link, 4))[0] != base.RPC_TRACKER_MAGIC:
                    raise DeviceError(f"What answers at {self.address} is no tracker of TVM's: check the port.")
                yield link
        except TimeoutError as error:
            raise DeviceLostError(
                f"The tracker at {self.address} did not answer within {self.answer_s:g} s: check its host and firewall."
            ) from error
        except (OSError, struct.error) as error:
            raise DeviceLostError(
                f"No tracker answers at {self.address} ({getattr(error, 'strerror', None) or error}): start one, or "
                "check the address."
            ) from error
