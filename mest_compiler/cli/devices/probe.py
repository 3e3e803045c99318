"""`mest devices probe`: what a device can do, measured with small kernels."""

from __future__ import annotations

from typing import Annotated

import typer

from mest_compiler.cli.devices.options import Adb, Key, Server, TrackerAt, WaitMinutes, say_waiting
from mest_compiler.cli.options import Json
from mest_compiler.cli.output import say, write_json
from mest_compiler.cli.tables import show

ProbedDevice = Annotated[
    str, typer.Option("--device", help="Profile of the device: opencl, galaxy-s20 or a .yaml file.")
]


def command(
    device: ProbedDevice = "opencl",
    tracker: TrackerAt = None,
    key: Key = None,
    server: Server = None,
    adb: Adb = None,
    wait: WaitMinutes = 60,
    json: Json = None,
) -> None:
    """Measure an OpenCL device: bandwidths, multiply-adds, launches, the resolution of its clock.

    The first thing to run on a phone. The result is kept in the cache folder with the name of the profile, and benches
    show it beside their numbers.

    Examples:

    mest devices probe

    mest devices probe --device galaxy-s20 --tracker 127.0.0.1:9190 --key galaxy-s20
    """
    from mest_compiler.bench.probe import probe
    from mest_compiler.devices import get_device, measured
    from mest_compiler.errors import DeviceError
    from mest_compiler.runtime.device_runtimes import device_runtime
    from mest_compiler.runtime.hosts import LocalHost
    from mest_compiler.runtime.remote import connection
    from mest_compiler.runtime.remote.where import Where

    profile, where = get_device(device), Where.of(tracker, key, server, adb)
    if not device_runtime(profile.kind).probed:
        raise DeviceError(f"Only OpenCL devices are probed, and {device} is none: try --device opencl.")
    if where is None:
        if profile.host is not None:
            raise DeviceError(
                f"The device {profile.name} is no part of this machine: reach it with --tracker and --key, --server or "
                "--adb."
            )
        result = probe(profile, LocalHost(profile), say)
    else:
        with connection.open(where, wait_s=60 * wait, waiting=say_waiting()) as there:
            result = probe(profile, there, say)
    _show(result)
    path = measured.save(profile.name, result)
    say("not kept: the cache folder is not in use or cannot be written" if path is None else f"kept in {path}")
    if json is not None:
        write_json(json, result)


def _show(result: dict) -> None:
    rows = [
        (one["about"], f"{one['value']:.4g}", one["unit"], f"{one['ms']:.3f}" if "ms" in one else "")
        for one in result["numbers"].values()
    ]
    show(f"{result['device']}: {result['opencl']}", ("", "value", "unit", "ms"), rows)
