"""Where a device is reached: a tracker and a key, a server's own address, or a phone behind adb."""

from __future__ import annotations

from dataclasses import dataclass

from mest_compiler.errors import DeviceError

LOOPBACK = "127.0.0.1"
PHONE_PORT = 5001
"""Port at which `tvm_rpc` listens on a phone, where nothing else is said."""


@dataclass(frozen=True)
class Address:
    """A host's name or number, and a TCP port."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str, what: str = "address") -> Address:
        """Reads HOST:PORT; raises DeviceError for anything else."""
        host, colon, port = text.strip().rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise DeviceError(f"{text!r} is no {what}: write HOST:PORT, such as {LOOPBACK}:9190.")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Where:
    """How to reach a server: `tracker` and `key`, or `server` (with the key it goes by, if any), or `adb`, a phone's
    serial number ("" for the only one), with the port its server listens at."""

    tracker: Address | None = None
    key: str = ""
    server: Address | None = None
    adb: str | None = None
    adb_port: int = PHONE_PORT

    def __post_init__(self) -> None:
        ways = [way for way in (self.tracker, self.server, self.adb) if way is not None]
        if len(ways) != 1:
            raise DeviceError("A device is reached in one way: by a tracker and a key, a server's address, or adb.")
        if self.tracker is not None and not self.key:
            raise DeviceError(f"The tracker at {self.tracker} lists devices by keys: say which one, with --key KEY.")

    @classmethod
    def of(
        cls, tracker: str | None = None, key: str | None = None, server: str | None = None, adb: str | None = None
    ) -> Where | None:
        """As options of a command say it; None where they name no place, which is this machine."""
        if tracker is None and server is None and adb is None:
            if key is not None:
                raise DeviceError(f"The key {key!r} needs a tracker that knows it: add --tracker HOST:PORT.")
            return None
        return cls(
            tracker and Address.of(tracker, "address of a tracker"), key or "",
            server and Address.of(server, "address of a server"), adb,
        )  # fmt: skip

    def __str__(self) -> str:
        """As it follows "the server"."""
        if self.tracker is not None:
            return f"of {self.key!r} at the tracker {self.tracker}"
        return f"at {self.server}" if self.server is not None else f"on the phone {self.adb}".rstrip()
