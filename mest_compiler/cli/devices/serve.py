"""`mest devices serve`: this machine's devices for RPC clients, started again when they crash."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from mest_compiler.cli.options import Json
from mest_compiler.cli.output import say, write_json


def _kind(name: str) -> str:
    from mest_compiler.runtime.device_runtimes import RUNTIMES

    if name not in RUNTIMES:
        raise typer.BadParameter(f"{name!r} cannot be served: it is {' or '.join(RUNTIMES)}")
    return name


Kind = Annotated[str, typer.Option("--device", callback=_kind, help="What clients get: opencl or cpu.")]
ServeKey = Annotated[
    str | None, typer.Option("--key", help="Key under which clients ask for it.", show_default="the device's name")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port of the tracker; 0 takes a free one.")]
Servers = Annotated[int, typer.Option(min=1, help="How many clients are served at the same time.")]
Host = Annotated[
    str,
    typer.Option(help="Address to listen at. Whoever reaches it can run any code here: RPC knows no passwords."),
]


def command(
    device: Kind = "opencl",
    key: ServeKey = None,
    port: Port = 9190,
    servers: Servers = 1,
    host: Host = "127.0.0.1",
    json: Json = None,
) -> None:
    """Serve this machine's OpenCL devices or CPU to RPC clients, until Ctrl-C.

    Starts a tracker and servers, restarts what crashes or hangs, and leaves nothing behind. With --json the address
    and the key are written as soon as clients can come.

    Example:

    mest devices serve --device opencl --key opencl --port 9190
    """
    from mest_compiler.runtime.remote.supervisor import Supervisor

    with _told_to_stop() as stop:
        libraries = _libraries(device)
        key = key or device
        running = Supervisor(key, servers, host=host, port=port, libraries=libraries, say=say)
        say("starting a tracker and its servers")
        with running:
            say(f"serving {device}: --tracker {running.tracker} --key {key} (Ctrl-C ends it)")
            if json is not None:
                facts = {"tracker": str(running.tracker), "key": key, "device": device, "servers": servers}
                write_json(json, facts | {"processes": running.processes()})
            stop.serve()
            say("stopping")


class _Stop:
    """Whether someone wants the end: an exception while things start, an end of the waiting once they run."""

    def __init__(self) -> None:
        self._told, self._serving = threading.Event(), False

    def tell(self, *_: object) -> None:
        again = self._told.is_set()
        self._told.set()
        if not self._serving and not again:
            raise KeyboardInterrupt

    def serve(self) -> None:
        """Returns when it is told to stop."""
        self._serving = True
        self._told.wait()


@contextmanager
def _told_to_stop() -> Iterator[_Stop]:
    """SIGINT and SIGTERM are a wish to end. Both are handled here and not by Python: a job that a script starts in the
    background has SIGINT ignored, and Python then leaves it so."""
    stop = _Stop()
    before = {number: signal.signal(number, stop.tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _libraries(device: str) -> list[str]:
    from mest_compiler.runtime.device_runtimes import device_runtime

    plugin = device_runtime(device).plugin()
    return [] if plugin is None else [str(plugin)]
