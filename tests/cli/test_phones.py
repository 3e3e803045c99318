"""Phones in `mest devices` and its doctor: a program called adb prints what the real one does; the server is real."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ADB = """#!/bin/sh
here=$(dirname "$0")
if [ "$1" = -s ]; then shift 2; fi
echo "$*" >> "$here/calls"
case "$*" in
"devices -l") cat "$here/list"; exit $(cat "$here/status" 2>/dev/null || echo 0) ;;
"forward --list") cat "$here/forwards" ;;
"shell uname -m") cat "$here/uname" ;;
"shell getprop ro.build.version.release") echo 13 ;;
"shell getprop ro.hardware.egl") echo adreno ;;
"shell cat /proc/net/tcp"*) cat "$here/tcp" ;;
*) echo "adb: unknown command $1" >&2; exit 1 ;;
esac
"""
HEADER = "List of devices attached\n"
READY = "R5CN20ABCDE            device usb:1-1 product:x1qsqw model:SM_G981U device:x1q transport_id:1\n"
EMULATOR = "emulator-5554          device product:sdk_gphone64 model:sdk_gphone64_arm64 device:emu64a transport_id:3\n"
UNAUTHORIZED = "R5CN30FGHIJ            unauthorized usb:1-2 transport_id:2\n"
OFFLINE = "R5CN40KLMNO\toffline\n"
FORBIDDEN = (
    "????????????           no permissions (missing udev rules? user is in the plugdev group); see "
    "[http://developer.android.com/tools/device.html] usb:1-4\n"
)
DAEMON = "* daemon not running; starting now at tcp:5037\n* daemon started successfully\n"
TCP = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    "   0: 00000000:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000  2000        0 51234 1\n"
)
"""Something listens at port 5001 of the phone."""
FORWARDED = "R5CN20ABCDE tcp:5001 tcp:5001\n"


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts an adb that answers so in front of all others."""

    def make(listed: str, *, uname: str = "aarch64", tcp: str = TCP, forwards: str = "\n") -> Path:
        folder = tmp_path / "platform-tools"
        folder.mkdir()
        for name, text in {"adb": ADB, "list": listed, "uname": uname, "tcp": tcp, "forwards": forwards}.items():
            (folder / name).write_text(text)
        (folder / "adb").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return folder

    return make


def steps_of(result) -> dict[str, tuple[str, str]]:
    return {step["what"]: (step["state"], step["says"]) for step in json.loads(result.stdout)["steps"]}


def test_phones_are_listed(mest, adb) -> None:
    adb(f"{DAEMON}{HEADER}{READY}{UNAUTHORIZED}{OFFLINE}{FORBIDDEN}{EMULATOR}\n")
    result = mest("devices", "--json", "-")
    phones = json.loads(result.stdout)["phones"]
    assert [(one["serial"], one["state"], one["model"]) for one in phones] == [
        ("R5CN20ABCDE", "device", "SM_G981U"),
        ("R5CN30FGHIJ", "unauthorized", ""),
        ("R5CN40KLMNO", "offline", ""),
        ("????????????", "no permissions", ""),
        ("emulator-5554", "device", "sdk_gphone64_arm64"),
    ]
    assert [one["advice"] is None for one in phones] == [True, False, False, False, True]
    assert "The phone R5CN30FGHIJ is 'unauthorized': unlock the phone and allow USB debugging" in result.stderr


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ("", "adb gave no list of devices: run 'adb devices'"),
        (f"{DAEMON}{HEADER}\n", "adb sees no phone: plug it in, unlock it and turn on USB debugging"),
        (HEADER + READY + EMULATOR, r"several phones \(R5CN20ABCDE, emulator-5554\): say which one, with --adb SERIAL"),
        (HEADER + UNAUTHORIZED, "R5CN30FGHIJ is 'unauthorized': unlock the phone and allow USB debugging"),
        (HEADER + OFFLINE, "R5CN40KLMNO is 'offline': unplug it and plug it in again"),
        (HEADER + FORBIDDEN, "is 'no permissions': give your user the right to the USB device"),
        (f"{HEADER}R5CN20ABCDE  recovery usb:1-1\n", "'recovery': let it start Android"),
        (f"{HEADER}R5CN20ABCDE  rescue usb:1-1\n", "'rescue': run 'adb devices' and see to it"),
    ],
    ids=["nothing", "none", "several", "unauthorized", "offline", "no permissions", "recovery", "another state"],
)
def test_a_phone_that_is_not_ready(run, adb, listed: str, says: str) -> None:
    adb(listed)
    result = run("devices", "doctor", "--device", "galaxy-s20", "--adb", "", "--json", "-")
    steps = steps_of(result)
    assert result.exit_code == 1
    assert steps["adb"][0] == "ok"
    assert steps["phone"][0] == "failed"
    assert re.search(says, steps["phone"][1])
    later = list(steps)[list(steps).index("phone") + 1 :]
    assert {"connection", "a tiny kernel"} <= set(later)
    assert {steps[what][0] for what in later} == {"skipped"}


def test_adb_itself_fails(run, adb) -> None:
    folder = adb("error: cannot connect to daemon\n")
    (folder / "status").write_text("1")
    steps = steps_of(run("devices", "doctor", "--device", "galaxy-s20", "--adb", "", "--json", "-"))
    assert steps["phone"] == ("failed", "adb devices -l failed: error: cannot connect to daemon.")


def test_no_adb(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    steps = steps_of(run("devices", "doctor", "--device", "galaxy-s20", "--adb", "", "--json", "-"))
    assert steps["adb"][0] == "failed"
    assert "install Debian's package adb" in steps["adb"][1]
    assert steps["phone"][0] == steps["connection"][0] == "skipped"


def test_another_serial_number(run, adb) -> None:
    adb(HEADER + READY + EMULATOR)
    steps = steps_of(run("devices", "doctor", "--device", "galaxy-s20", "--adb", "R5CN20ABCDF", "--json", "-"))
    assert steps["phone"] == ("failed", "adb sees no phone 'R5CN20ABCDF': it has R5CN20ABCDE.")


@pytest.mark.parametrize(
    ("fault", "what", "says"),
    [
        ({"uname": "armv8l"}, "phone's processor", "the phone's processor is 'armv8l', and the code is for aarch64"),
        ({"tcp": "\n"}, "tvm_rpc on the phone", "nothing listens at port 5001 of the phone: start tvm_rpc there"),
        ({"forwards": "\n"}, "port forwarded", "run 'adb -s R5CN20ABCDE forward tcp:5001 tcp:5001'"),
    ],
)
def test_a_step_on_the_phone(run, adb, tracker: str, fault: dict[str, str], what: str, says: str) -> None:
    adb(HEADER + READY, **{"forwards": FORWARDED, **fault})
    where = ("--tracker", tracker, "--key", "here")
    steps = steps_of(run("devices", "doctor", *where, "--adb", "R5CN20ABCDE", "--json", "-"))
    assert steps[what][0] == "failed"
    assert says in steps[what][1]
    assert steps["server registered"][0] == "ok"
    assert steps["connection"][0] == "skipped"


def test_all_is_well(mest, adb, tracker: str) -> None:
    adb(HEADER + READY, forwards=FORWARDED)
    steps = steps_of(mest("devices", "doctor", "--tracker", tracker, "--key", "here", "--adb", "", "--json", "-"))
    assert {state for state, _ in steps.values()} == {"ok"}
    assert steps["phone"][1] == "R5CN20ABCDE SM_G981U, authorised"
    assert steps["phone's processor"][1] == "aarch64, Android 13, graphics: adreno"
    assert list(steps)[-2:] == ["OpenCL there", "a tiny kernel"]
