"""Limits on the socket inside TVM's RPC client, which has none: a request that is never answered would wait for ever,
inside C++ and, where it frees a tensor, with Python's lock held. The operating system ends such a wait, if asked to."""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

_OPEN_FILES = next((Path(p) for p in ("/proc/self/fd", "/dev/fd") if Path(p).is_dir()), Path("/dev/fd"))
_KEEP_ALIVE = (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""Seconds of silence before the other side's machine is asked for a sign of life, between such questions, and how many
go without an answer before the connection ends."""
_TCP_INFO_SENT, _TCP_INFO_RECEIVED = 44, 52
"""Offsets in Linux's tcp_info: milliseconds (uint32) since data was last sent, and last received."""
_OUT_OF_STEP_MS = 50


def open_sockets() -> frozenset[int]:
    """File numbers of this process that are TCP sockets."""
    found = set()
    for name in os.listdir(_OPEN_FILES):
        with suppress(OSError):  # closed meanwhile
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.type == socket.SOCK_STREAM and one.family in (socket.AF_INET, socket.AF_INET6):
                    found.add(int(name))
    return frozenset(found)


class Wire:
    """A second handle of a socket that TVM holds."""

    def __init__(self, number: int) -> None:
        self._socket = socket.socket(fileno=os.dup(number))

    @classmethod
    def since(cls, before: frozenset[int], port: int) -> Wire | None:
        """Of the socket that was not there `before` and is connected to this port; None where there is none."""
        for number in open_sockets() - before:
            with suppress(OSError):
                wire = cls(number)
                if wire._socket.getpeername()[1] == port:
                    return wire
                wire.close()
        return None

    def limit(self, seconds: float) -> None:
        """No wait for the other side lasts longer from now on; one that would fails."""
        whole, micro = int(seconds), int(seconds % 1 * 1e6)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, micro))

    def keep_alive(self) -> None:
        """Notice that the other machine is gone, however long a request may take: the system's own heartbeat."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE:
            if hasattr(socket, name):
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def out_of_step(self) -> bool:
        """Whether an answer is still owed, or lies there unread, while nobody waits for one: a request was given up
        (as TVM does silently where it frees a tensor), and the next one would take the old answer for its own."""
        with suppress(OSError):
            return bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        if not hasattr(socket, "TCP_INFO"):
            return False
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        (sent,), (received,) = (struct.unpack_from("I", info, at) for at in (_TCP_INFO_SENT, _TCP_INFO_RECEIVED))
        return received - sent > _OUT_OF_STEP_MS

    def cut(self) -> None:
        """End the connection: whoever waits on it fails now, and every later request at once."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of this handle; TVM's stays."""
        self._socket.close()
