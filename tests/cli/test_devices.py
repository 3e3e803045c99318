"""`mest devices` and its commands, against a real tracker and server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mest_compiler.cli.main import FAILED
from mest_compiler.devices import measured

LOOPBACK = "127.0.0.1"


IN_A_SCRIPT = """
trap 'kill -KILL $server 2>/dev/null' EXIT
"$PYTHON" -m mest_compiler.cli.main devices serve --device opencl --key x --port 0 --json facts.json 2>said.txt &
server=$!
until [ -s facts.json ]; do kill -0 $server || exit 3; sleep 0.1; done
kill -$SIGNAL $server
for _ in $(seq 200); do kill -0 $server 2>/dev/null || break; sleep 0.1; done
kill -0 $server 2>/dev/null && exit 4
wait $server
"""
"""A job that a script starts in the background has SIGINT ignored: so has the one that all tests here share."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_served_by_a_script(folder: Path, name: str) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "SIGNAL": name}
    done = subprocess.run(["bash", "-c", IN_A_SCRIPT], env=environment, cwd=folder, timeout=90)
    said = Path("said.txt").read_text()
    assert done.returncode == 0, said
    assert said.splitlines()[-1] == "stopping"
    processes = json.loads(Path("facts.json").read_text())["processes"]
    assert set(processes) == {"tracker", "server-0"}
    assert not [pid for pid in processes.values() if psutil.pid_exists(pid)]


def test_list(mest, tracker: str) -> None:
    result = mest("devices", "--tracker", tracker, "--key", "here", "--json", "-")
    found = json.loads(result.stdout)
    assert [one["name"] for one in found["profiles"]] == ["cpu", "opencl", "galaxy-s20"]
    assert found["opencl"] and found["opencl"] == found["remote"]["opencl"]
    assert found["tracker"]["keys"] == {"here": {"servers": 1, "free": 1, "pending": 0}}
    assert (found["phones"] is None) == (shutil.which("adb") is None)
    assert "OpenCL of the server of 'here'" in result.stderr


def test_probe(mest, tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEST_CACHE", str(tmp_path))
    result = mest("devices", "probe", "--tracker", tracker, "--key", "here", "--json", "-")
    found = json.loads(result.stdout)
    assert found == measured.load("opencl")
    names = {"read_4", "read_16", "read_32", "local", "uniform_global", "uniform_constant", "multiply_add", "mad"}
    assert names <= found["numbers"].keys()
    assert all(one["value"] > 0 for name, one in found["numbers"].items() if name != "event_step")


@pytest.mark.parametrize("remote", [False, True])
def test_doctor(mest, tracker: str, remote: bool) -> None:
    where = ("--tracker", tracker, "--key", "here") if remote else ()
    found = json.loads(mest("devices", "doctor", *where, "--json", "-").stdout)
    assert found["ok"]
    assert {step["state"] for step in found["steps"]} == {"ok"}
    whats = [step["what"] for step in found["steps"]]
    assert whats[-2:] == ["OpenCL there" if remote else "OpenCL devices", "a tiny kernel"]


def test_doctor_says_what_to_do(run, tracker: str) -> None:
    result = run("devices", "doctor", "--tracker", tracker, "--key", "hree", "--json", "-")
    assert result.exit_code == 1
    steps = {step["what"]: step for step in json.loads(result.stdout)["steps"]}
    assert steps["tracker"]["state"] == "ok"
    assert "did you mean 'here'" in steps["server registered"]["says"]
    assert {steps[what]["state"] for what in ("connection", "OpenCL there", "a tiny kernel")} == {"skipped"}


def test_doctor_wants_an_address_for_a_phone(run) -> None:
    result = run("devices", "doctor", "--device", "galaxy-s20", "--json", "-")
    assert result.exit_code == 1
    assert "add --adb SERIAL, --tracker" in json.loads(result.stdout)["steps"][-1]["says"]


def _unused() -> str:
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return f"{LOOPBACK}:{one.getsockname()[1]}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["probe", "--tracker", "host"], "'host' is no address of a tracker"),
        (["probe", "--tracker", "host:1"], "say which one, with --key"),
        (["probe", "--key", "k"], "needs a tracker"),
        (["probe", "--device", "cpu"], "Only OpenCL devices are probed"),
        (["probe", "--device", "galaxy-s21"], "did you mean 'galaxy-s20'"),
        (["probe", "--device", "galaxy-s20"], "no part of this machine"),
        (["doctor", "--device", "cpu"], "cpu is none"),
        (["doctor", "--tracker", "host:1"], "say which one, with --key"),
        (["serve", "--device", "gpu"], "'gpu' cannot be served: it is opencl or cpu"),
        (["serve", "--device", "cpu", "--key", "a:b"], "'a:b' is no key"),
        (["serve", "--device", "cpu", "--host", "192.0.2.1"], "Nothing can listen at 192.0.2.1"),
    ],
)
def test_wrong_usage(refused, arguments: list[str], sentence: str) -> None:
    assert sentence in refused("devices", *arguments)


def test_nobody_at_the_tracker(refused) -> None:
    address = _unused()
    assert f"No tracker answers at {address}" in refused("devices", "--tracker", address)


def test_unknown_key(run, tracker: str) -> None:
    result = run("devices", "probe", "--tracker", tracker, "--key", "there")
    assert result.exit_code == FAILED
    assert "knows no device 'there': did you mean 'here'" in result.stderr.splitlines()[-1]


def test_a_profile_that_is_none(refused, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("work_groups: 3")
    assert "did you mean 'work_group'" in refused("devices", "probe", "--device", path)
