"""`mest devices`: which devices are there, what they can do, and how they are served. A command is a module of this
folder with a function `command`; without one, the devices are listed."""

from __future__ import annotations

from typing import Annotated

import typer

from mest_compiler.cli.devices.options import Adb, Key, Server, TrackerAt
from mest_compiler.cli.lazy import LazyGroup
from mest_compiler.cli.options import Json

COMMANDS = ("serve", "probe", "doctor")

BuildOpenCl = Annotated[
    bool,
    typer.Option(
        "--build-opencl",
        help="Build the OpenCL runtime that TVM's wheel lacks, for this machine's devices. Needs a C++ compiler and "
        "the package opencl-headers.",
    ),
]


class DeviceCommands(LazyGroup):
    """The group of this folder's commands."""

    package = __name__

    def names(self) -> tuple[str, ...]:
        """In the order in which they are usually needed."""
        return COMMANDS


app = typer.Typer(name="devices", cls=DeviceCommands, invoke_without_command=True, add_completion=False)


@app.callback()
def devices(
    context: typer.Context,
    tracker: TrackerAt = None,
    key: Key = None,
    server: Server = None,
    adb: Adb = None,
    build_opencl: BuildOpenCl = False,
    json: Json = None,
) -> None:
    """List the devices of this machine, of a tracker and on adb, and what each can do.

    Examples:

    mest devices

    mest devices --tracker 127.0.0.1:9190
    """
    if context.invoked_subcommand is not None:
        return
    from mest_compiler.cli.devices.listing import build_runtime, list_devices

    if build_opencl:
        build_runtime(json)
    else:
        list_devices(tracker, key, server, adb, json)
