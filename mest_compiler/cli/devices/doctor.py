"""`mest devices doctor`: every step from this machine to a device's first number, checked in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from mest_compiler.cli.devices.options import Adb, Key, Server, TrackerAt
from mest_compiler.cli.devices.probe import ProbedDevice
from mest_compiler.cli.options import Json
from mest_compiler.cli.output import console, say, write_json
from mest_compiler.errors import DeviceError, MestError

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
SOME_FAILED = 1
WAIT_S = 60.0
"""For a device that others use; a check-up does not queue for long."""

_ANDROID, _GRAPHICS = "ro.build.version.release", "ro.hardware.egl"
"""Android's properties: its version, and the kind of its GPU (adreno, or mali in the phones sold in Europe)."""

WaitSeconds = Annotated[
    float, typer.Option("--wait", min=0, metavar="SECONDS", help="How long to wait for a busy device.")
]


@dataclass(frozen=True)
class Step:
    """What was looked at, how it went, and what was found or is to be done."""

    what: str
    state: str
    says: str


class Checks:
    """Steps in order; those that need one that failed are skipped."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def step(self, what: str, look: Callable[[], tuple[Any, str]], needs: bool = True, otherwise: str = "") -> Any:
        """Look, and keep what it says; gives what `look` found, None where it failed or was skipped."""
        if not needs:
            self._add(Step(what, SKIPPED, otherwise or "the step before comes first"))
            return None
        try:
            found, says = look()
        except MestError as error:
            self._add(Step(what, FAILED, " ".join(str(error).split())))
            return None
        self._add(Step(what, OK, says))
        return found

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        colour = {OK: "green", FAILED: "red", SKIPPED: "yellow"}[step.state]
        console.print(f"{step.state:>7}", style=colour, end="  ")
        say(f"{step.what}: {step.says}")

    @property
    def failed(self) -> bool:
        """Whether any step did."""
        return any(step.state == FAILED for step in self.steps)


def command(
    device: ProbedDevice = "opencl",
    tracker: TrackerAt = None,
    key: Key = None,
    server: Server = None,
    adb: Adb = None,
    wait: WaitSeconds = WAIT_S,
    json: Json = None,
) -> None:
    """Check every step from this machine to a device, and say what to do about the first that fails.

    Without an address it checks this machine's own OpenCL. With --tracker and --key, --server or --adb it goes the
    whole way: adb, the phone, the forwarded port, the tracker, the server, OpenCL there, a tiny kernel. The exit status
    is 1 if a step fails.

    Examples:

    mest devices doctor

    mest devices doctor --device galaxy-s20 --tracker 127.0.0.1:9190 --key galaxy-s20 --adb ""
    """
    from mest_compiler.devices import get_device
    from mest_compiler.runtime.device_runtimes import device_runtime
    from mest_compiler.runtime.remote.where import Address

    profile = get_device(device)
    if not device_runtime(profile.kind).probed:
        raise DeviceError(f"The way to an OpenCL device is checked, and {device} is none: try --device opencl.")
    if tracker is not None and key is None:
        raise DeviceError(f"The tracker {tracker} lists devices by keys: say which one, with --key KEY.")
    for address in (tracker, server):
        if address is not None:
            Address.of(address)
    checks = Checks()
    _host(checks, profile)
    phone_ready = adb is None or _phone(checks, adb, tracker is None)
    if tracker is not None or server is not None or adb is not None:
        _remote(checks, profile, tracker, key, server, adb, wait, phone_ready)
    else:
        _local(checks, profile)
    if json is not None:
        write_json(json, {"ok": not checks.failed, "steps": [vars(step) for step in checks.steps]})
    if checks.failed:
        raise typer.Exit(SOME_FAILED)


def _host(checks: Checks, profile: Any) -> None:
    def linker() -> tuple[Any, str]:
        from mest_compiler.bench import probe_kernels
        from mest_compiler.linking import library_bytes

        library = library_bytes(probe_kernels.built_check(profile), profile)
        return library, f"a kernel compiles and links for {profile.host or 'this machine'} ({len(library)} bytes)"

    checks.step("compiler", linker)


def _local(checks: Checks, profile: Any) -> None:
    from mest_compiler.runtime import opencl

    if profile.host is not None:
        needed = f"--adb SERIAL, --tracker HOST:PORT and --key {profile.name}, or --server HOST:PORT"
        checks.step("address", _fails(f"The device {profile.name} is no part of this machine: add {needed}."))
        return
    library = checks.step("OpenCL runtime plug-in", lambda: _said(opencl.build(), str))
    found = checks.step("OpenCL devices", _found(opencl.devices), library is not None)

    def kernel() -> tuple[Any, str]:
        from mest_compiler.bench.probe import check
        from mest_compiler.runtime.hosts import LocalHost

        check(profile, LocalHost(profile))
        return True, "right"

    checks.step("a tiny kernel", kernel, bool(found))


def _phone(checks: Checks, serial: str, direct: bool) -> bool:
    """Whether the way to the phone's server is open, as far as adb knows."""
    from mest_compiler.runtime.remote import adb
    from mest_compiler.runtime.remote.where import PHONE_PORT

    def installed() -> tuple[Any, str]:
        if not adb.found():
            raise DeviceError("not installed: install Debian's package adb, or Android's platform tools.")
        return True, "installed"

    there = checks.step("adb", installed)
    phone = checks.step(
        "phone",
        lambda: _said(adb.phone(serial), lambda one: f"{one.serial} {one.model or 'of an unknown model'}, authorised"),
        there is not None,
    )
    chip = checks.step("phone's processor", lambda: _processor(phone.serial), phone is not None)

    def listening() -> tuple[Any, str]:
        ports = adb.shell(phone.serial, "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || true")
        if f":{PHONE_PORT:04X} " not in ports:
            raise DeviceError(
                f"nothing listens at port {PHONE_PORT} of the phone: start tvm_rpc there, see docs/galaxy-s20.md."
            )
        return True, f"port {PHONE_PORT} is open on the phone"

    ready = checks.step("tvm_rpc on the phone", listening, chip is not None) is not None

    def forwarded() -> tuple[Any, str]:
        wanted = (phone.serial, f"tcp:{PHONE_PORT}", f"tcp:{PHONE_PORT}")
        if wanted not in adb.forwards():
            raise DeviceError(
                f"port {PHONE_PORT} is not forwarded, so the address that the tracker gives leads nowhere: run "
                f"'adb -s {phone.serial} forward tcp:{PHONE_PORT} tcp:{PHONE_PORT}'."
            )
        return True, f"{PHONE_PORT} here is {PHONE_PORT} there"

    if direct:  # it is forwarded with the connection
        return ready
    return checks.step("port forwarded", forwarded, phone is not None) is not None and ready


def _processor(serial: str) -> tuple[Any, str]:
    from mest_compiler.runtime.remote import adb

    machine = adb.shell(serial, "uname -m").strip()
    if machine != "aarch64":
        raise DeviceError(f"the phone's processor is {machine!r}, and the code is for aarch64.")
    android, graphics = (adb.shell(serial, f"getprop {name}").strip() for name in (_ANDROID, _GRAPHICS))
    return machine, f"{machine}, Android {android or 'of an unknown version'}, graphics: {graphics or 'unknown'}"


def _remote(
    checks: Checks, profile: Any, tracker: str | None, key: str | None, server: str | None, adb: str | None,
    wait: float, ready: bool,
) -> None:  # fmt: skip
    """`ready`: whether the steps up to the server went well."""
    from mest_compiler.cli.devices.options import say_waiting
    from mest_compiler.runtime.device_runtimes import opencl_facts
    from mest_compiler.runtime.remote import connection
    from mest_compiler.runtime.remote.tracker import Tracker
    from mest_compiler.runtime.remote.where import Address, Where

    if tracker is not None:
        asked = Tracker(Address.of(tracker))
        queues = checks.step("tracker", lambda: _said(asked.queues(), lambda all: f"{len(all)} keys: {', '.join(all)}"))
        registered = checks.step("server registered", lambda: _registered(asked, key), queues is not None)
        ready = ready and registered is not None
        where = Where.of(tracker, key)
    else:
        where = Where.of(None, key, server, None if server is not None else adb)
    held: list[connection.Connection] = []

    def connect() -> tuple[Any, str]:
        held.append(connection.open(where, wait_s=wait, request_s=60, waiting=say_waiting()))
        seconds = held[0].heartbeat()
        return held[0], f"connected, a request takes {seconds * 1e3:.1f} ms"

    try:
        there = checks.step("connection", connect, ready)
        found = checks.step("OpenCL there", _found(lambda: opencl_facts.opencl_devices(there)), there is not None)

        def kernel() -> tuple[Any, str]:
            from mest_compiler.bench.probe import check

            check(profile, there)
            return True, "right"

        checks.step("a tiny kernel", kernel, bool(found))
    finally:
        for one in held:
            one.close()


def _registered(asked: Any, key: str) -> tuple[Any, str]:
    asked.check(key)
    queue = asked.queues()[key]
    if not queue.servers:
        raise DeviceError(f"{key!r} has no server any more: start it again.")
    return queue, f"{queue.servers} of {key!r}, {queue.free} free"


def _found(list_all: Callable[[], list[dict[str, Any]]]) -> Callable[[], tuple[Any, str]]:
    def look() -> tuple[Any, str]:
        devices = list_all()
        if not devices:
            raise DeviceError("OpenCL has no device: install its driver (on Debian for the CPU pocl-opencl-icd).")
        return devices, ", ".join(f"{one['platform']}/{one['name']}" for one in devices)

    return look


def _fails(sentence: str) -> Callable[[], tuple[Any, str]]:
    def look() -> tuple[Any, str]:
        raise DeviceError(sentence)

    return look


def _said(found: Any, say_it: Callable[[Any], str]) -> tuple[Any, str]:
    return found, say_it(found)
