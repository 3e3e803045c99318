"""Options that say where a device is reached, the same for every command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mest_compiler.cli.output import say

if TYPE_CHECKING:
    from mest_compiler.runtime.remote.tracker import Waiting

TrackerAt = Annotated[
    str | None,
    typer.Option("--tracker", metavar="HOST:PORT", help="A TVM RPC tracker, which hands out devices by their keys."),
]
Key = Annotated[str | None, typer.Option(help="Key of the wanted device at the tracker.")]
Server = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="A TVM RPC server, reached directly instead of by a tracker.")
]
Adb = Annotated[
    str | None,
    typer.Option(metavar="SERIAL", help="A phone on adb whose tvm_rpc listens at port 5001; '' for the only one."),
]
WaitMinutes = Annotated[
    float, typer.Option("--wait", min=0, metavar="MINUTES", help="How long to wait for a device that others use.")
]


def say_waiting(every_s: float = 5.0):
    """A callback of a wait for a device: a sentence at its beginning and then now and again."""
    said = -every_s

    def waiting(progress: Waiting) -> None:
        nonlocal said
        if progress.seconds - said < every_s:
            return
        said = progress.seconds
        queue = progress.queue
        if queue is None:
            state = "the server is busy"
        elif queue.servers == 0:
            state = "no server is registered at the moment"
        else:
            state = f"{queue.servers} in use, {queue.pending} waiting"
        say(f"waiting for a device ({state}): {progress.seconds:.0f} of at most {progress.limit:.0f} s")

    return waiting
