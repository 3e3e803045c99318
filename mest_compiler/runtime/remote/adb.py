"""Android's debug bridge: which phones there are, and ports of theirs as ports of this machine."""

from __future__ import annotations

import difflib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from mest_compiler.errors import DeviceError

from .where import LOOPBACK, Address

ANSWER_S = 15.0
READY = "device"
"""What adb calls a phone that is there and trusts this machine."""
ADVICE = {
    "unauthorized": "unlock the phone and allow USB debugging for this computer",
    "offline": "unplug it and plug it in again, or run 'adb reconnect'",
    "no permissions": "give your user the right to the USB device (Debian's package android-sdk-platform-tools-common)",
    "authorizing": "wait a moment and try again",
    "connecting": "wait a moment and try again",
    "recovery": "let it start Android, with 'adb reboot'",
    "sideload": "let it start Android, with 'adb reboot'",
    "bootloader": "let it start Android, with 'fastboot reboot'",
}
_LIST = "List of devices"
"""What the list begins after: adb may tell of its daemon before."""


@dataclass(frozen=True)
class Phone:
    """A device on adb: its serial number, its state in adb's words, its model where adb knows it."""

    serial: str
    state: str
    model: str = ""

    @property
    def advice(self) -> str | None:
        """A sentence about what to do before it can be used; None where that is nothing."""
        if self.state == READY:
            return None
        what = ADVICE.get(self.state, "run 'adb devices' and see to it")
        return f"The phone {self.serial} is {self.state!r}: {what}."


def found() -> bool:
    """Whether adb is installed."""
    return shutil.which("adb") is not None


def phones() -> list[Phone]:
    """Raises DeviceError where adb is missing or fails."""
    lines = iter(_adb("devices", "-l").splitlines())
    if not any(line.startswith(_LIST) for line in lines):
        raise DeviceError("adb gave no list of devices: run 'adb devices' and see what it says.")
    listed = []
    for line in lines:
        serial, *rest = line.split(maxsplit=1) or [""]
        if not rest or line.startswith("*"):
            continue
        state = next((known for known in ADVICE if rest[0].startswith(known)), rest[0].split()[0])
        model = next((word.partition(":")[2] for word in rest[0].split() if word.startswith("model:")), "")
        listed.append(Phone(serial, state, model))
    return listed


def phone(serial: str) -> Phone:
    """The phone of this serial number, "" for the only one, ready to be used.

    Raises:
        DeviceError: not there, more than one, or not authorised.
    """
    listed = phones()
    if not listed:
        raise DeviceError("adb sees no phone: plug it in, unlock it and turn on USB debugging.")
    serials = [one.serial for one in listed]
    if not serial and len(listed) > 1:
        raise DeviceError(f"adb sees several phones ({', '.join(serials)}): say which one, with --adb SERIAL.")
    chosen = next((one for one in listed if serial in ("", one.serial)), None)
    if chosen is None:
        near = difflib.get_close_matches(serial, serials, 1)
        raise DeviceError(f"adb sees no phone {serial!r}: it has {', '.join(near or serials)}.")
    if chosen.advice is not None:
        raise DeviceError(chosen.advice)
    return chosen


@contextmanager
def forwarded(serial: str, port: int) -> Iterator[Address]:
    """A port of the phone as a free port of this machine, for as long as the context lasts."""
    chosen = phone(serial)
    local = _adb("-s", chosen.serial, "forward", "tcp:0", f"tcp:{port}").strip()
    try:
        yield Address(LOOPBACK, int(local))
    finally:
        with suppress(DeviceError):  # the phone may be unplugged by now
            _adb("-s", chosen.serial, "forward", "--remove", f"tcp:{local}")


def shell(serial: str, command: str) -> str:
    """What a command prints on the phone."""
    return _adb("-s", serial, "shell", command)


def forwards() -> list[tuple[str, str, str]]:
    """(serial, port here, port there) of what adb forwards, as "tcp:PORT"."""
    return [tuple(line.split()) for line in _adb("forward", "--list").splitlines() if len(line.split()) == 3]


def _adb(*arguments: str) -> str:
    program = shutil.which("adb")
    if program is None:
        raise DeviceError("adb is not installed: install Debian's package adb, or Android's platform tools.")
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=ANSWER_S)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"adb did not answer within {ANSWER_S:g} s: run 'adb kill-server' and try again.") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()
        raise DeviceError(f"adb {' '.join(arguments)} failed: {last[-1] if last else f'status {done.returncode}'}.")
    return done.stdout
