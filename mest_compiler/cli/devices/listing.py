"""What `mest devices` lists: profiles, this machine's OpenCL devices, a tracker's servers, phones on adb."""

from __future__ import annotations

from typing import Any

from mest_compiler.cli.output import say, write_json
from mest_compiler.cli.tables import MIB, show
from mest_compiler.errors import DeviceError, MestError

KIB = 2**10
YES_NO = {True: "yes", False: "no"}
_FACTS = {
    "index": lambda one: str(one["index"]),
    "type": lambda one: one["type"],
    "version": lambda one: " ".join(one["version"].split()[:2]),
    "driver": lambda one: one["driver"],
    "compute units": lambda one: str(one["compute_units"]),
    "MHz": lambda one: str(one["clock_mhz"]),
    "items of a work-group": lambda one: str(one["max_work_group"]),
    "local memory, KiB": lambda one: f"{one['local_bytes'] / KIB:.0f}",
    "memory, MiB": lambda one: f"{one['global_bytes'] / MIB:.0f}",
    "largest buffer, MiB": lambda one: f"{one['max_allocation_bytes'] / MIB:.0f}",
    "float64": lambda one: YES_NO[one["fp64"]],
    "float16": lambda one: YES_NO[one["fp16"]],
}
"""Rows of a table of OpenCL devices."""


def list_devices(
    tracker: str | None, key: str | None, server: str | None, adb_serial: str | None, json: str | None
) -> None:
    """Shows all that can be found; with a key or a server also what OpenCL says there."""
    from mest_compiler.runtime.remote.where import Where

    at_key = tracker if key is not None else None
    where = Where.of(at_key, key, server, adb_serial)
    result: dict[str, Any] = {"profiles": _profiles(), **_local()}
    if tracker is not None:
        result["tracker"] = _tracker(tracker)
    result["phones"] = _phones()
    if where is not None:
        result["remote"] = {"server": str(where), "opencl": _remote(where)}
    _show(result)
    if json is not None:
        write_json(json, result)


def build_runtime(json: str | None) -> None:
    """Builds the OpenCL plug-in and says which devices it finds."""
    from mest_compiler.runtime import opencl

    say("building the OpenCL runtime plug-in (half a minute)")
    path = opencl.build(force=True)
    found = opencl.devices()
    say(f"{path} is ready; it finds {len(found)} OpenCL device{'' if len(found) == 1 else 's'}")
    if json is not None:
        write_json(json, {"library": path, "opencl": found})


def _profiles() -> list[dict[str, Any]]:
    from mest_compiler.devices import NAMES, available_cores, get_device, measured, profiles

    found = []
    for name in NAMES:
        of_file = name in profiles.names()
        about = profiles.description(name) if of_file else f"This machine's CPU, {available_cores()} cores."
        found.append({"name": name, "kind": get_device(name).kind, "about": about, "measured": measured.load(name)})
    return found


def _local() -> dict[str, Any]:
    from mest_compiler.runtime import opencl

    try:
        return {"opencl": opencl.devices(), "opencl_problem": None}
    except MestError as error:
        return {"opencl": [], "opencl_problem": str(error)}


def _tracker(address: str) -> dict[str, Any]:
    from mest_compiler.runtime.remote.tracker import Tracker
    from mest_compiler.runtime.remote.where import Address

    queues = Tracker(Address.of(address, "address of a tracker")).queues()
    keys = {
        key: {"servers": queue.servers, "free": queue.free, "pending": queue.pending} for key, queue in queues.items()
    }
    return {"address": address, "keys": keys}


def _phones() -> list[dict[str, str | None]] | None:
    from mest_compiler.runtime.remote import adb

    if not adb.found():
        return None
    try:
        found = adb.phones()
    except DeviceError as error:
        say(str(error))
        return []
    return [{"serial": one.serial, "state": one.state, "model": one.model, "advice": one.advice} for one in found]


def _remote(where: Any) -> list[dict[str, Any]]:
    from mest_compiler.cli.devices.options import say_waiting
    from mest_compiler.runtime.device_runtimes import opencl_facts
    from mest_compiler.runtime.remote import connection

    with connection.open(where, waiting=say_waiting()) as there:
        return opencl_facts.opencl_devices(there)


def _show(result: dict[str, Any]) -> None:
    show(
        "profiles, for --device", ("name", "kind", "measured", "what it is"),
        [
            (one["name"], one["kind"], YES_NO[one["measured"] is not None], one["about"])
            for one in result["profiles"]
        ],
    )  # fmt: skip
    _show_opencl("OpenCL here", result["opencl"])
    if result["opencl_problem"]:
        say(result["opencl_problem"])
    elif not result["opencl"]:
        say("OpenCL has no device here: install a driver, such as Debian's package pocl-opencl-icd for the CPU.")
    if (tracker := result.get("tracker")) is not None:
        rows = [
            (key, str(one["servers"]), str(one["free"]), str(one["pending"])) for key, one in tracker["keys"].items()
        ]
        show(f"at the tracker {tracker['address']}", ("key", "servers", "free", "clients waiting"), rows)
    if result["phones"] is None:
        say("adb is not installed, so phones on USB are not looked for")
    elif result["phones"]:
        rows = [(one["serial"], one["model"] or "-", one["state"]) for one in result["phones"]]
        show("phones on adb", ("serial", "model", "state"), rows)
        for one in result["phones"]:
            if one["advice"] is not None:
                say(one["advice"])
    else:
        say("adb sees no phone")
    if (remote := result.get("remote")) is not None:
        _show_opencl(f"OpenCL of the server {remote['server']}", remote["opencl"])


def _show_opencl(title: str, devices: list[dict[str, Any]]) -> None:
    """A column a device: their names are long."""
    if not devices:
        return
    rows = [(about, *(say_it(one) for one in devices)) for about, say_it in _FACTS.items()]
    show(title, ("", *(f"{one['platform']}/{one['name']}" for one in devices)), rows)
