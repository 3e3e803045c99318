"""`mest bench` of compiled steps that take turns, on a device behind RPC and here."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from mest_compiler.cli.main import FAILED
from mest_compiler.runtime.remote import connection
from mest_compiler.runtime.remote.where import Where

from .conftest import BLOCK, NETWORK, SMALL, run


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sparse and a dense step of the small network, for an OpenCL device; read only."""
    folder = tmp_path_factory.mktemp("opencl")
    (folder / "net.py").write_text(NETWORK)
    for name, options in {"sparse": BLOCK, "dense": ()}.items():
        made = run(
            "compile", f"{folder}/net.py:make", *SMALL, *options, "--device", "opencl", "--output", folder / name
        )
        assert made.exit_code == 0, made.stderr
    return folder


def test_over_rpc(mest, run, artifact: Path, tracker: str) -> None:
    """A step for this machine's CPU, beside a copy of itself."""
    shutil.copytree(artifact, "copy")
    arguments = ("bench", artifact, "--tracker", tracker, "--key", "here", "--rounds", "3")
    result = json.loads(mest(*arguments, "--compare", "copy", "--json", "-").stdout)
    names = {"sparse", "copy"}
    for key in ("ms", "mean_ms", "event_ms", "mean_event_ms", "spread", "event_spread"):
        assert set(result[key]) == names
        assert min(result[key].values()) > 0
    assert result["loss"]["sparse"] == result["loss"]["copy"]
    assert result["speedup"]["copy"] == pytest.approx(result["ms"]["copy"] / result["ms"]["sparse"])
    assert (result["subject"], result["device"], result["batch"], result["runs"]) == ("sparse", "cpu", 8, 102)
    done = run(*arguments, "--profile-kernels")
    assert done.exit_code == FAILED
    assert "takes an OpenCL device and our runtime for it: leave out --profile-kernels" in done.stderr


@pytest.mark.slow
def test_sparse_and_dense_in_turn_over_rpc(
    mest, steps: Path, tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEST_CACHE", str(tmp_path))
    where = ("--tracker", tracker, "--key", "here")
    compared = ("--compare", steps / "dense", "--rounds", "2", "--profile-kernels")
    done = mest("bench", steps / "sparse", *where, *compared, "--json", "-")
    result = json.loads(done.stdout)
    names = {"sparse", "dense"}
    for key in ("ms", "mean_ms", "event_ms", "mean_event_ms", "spread", "event_spread", "loss", "kernel_ms"):
        assert set(result[key]) == names
    assert (result["subject"], result["device"], result["batch"], result["runs"]) == ("sparse", "opencl", 8, 100)
    assert result["speedup"]["dense"] == pytest.approx(result["ms"]["dense"] / result["ms"]["sparse"])
    assert result["event_speedup"]["dense"] == pytest.approx(result["event_ms"]["dense"] / result["event_ms"]["sparse"])
    assert result["roofline"] is None
    for name in names:
        kernels = result["kernel_ms"][name]
        times = [kernel["ms"] for kernel in kernels.values()]
        assert times == sorted(times, reverse=True)
        assert sum(times) > 0
        assert {kernel["calls"] % 1 for kernel in kernels.values()} == {0}
    assert "mest devices probe --device opencl measures it" in done.stderr

    (tmp_path / "probes").mkdir()
    numbers = {"read_16": {"value": 12.0, "unit": "GB/s"}, "launch": {"value": 30.0, "unit": "us"}}
    probe = {"opencl": result["opencl"], "numbers": numbers}
    (tmp_path / "probes" / "opencl.json").write_text(json.dumps(probe))
    again = mest("bench", steps / "dense", *where, "--rounds", "1", "--json", "-")
    assert json.loads(again.stdout)["roofline"] == probe
    assert f"on {result['opencl']}: reads 12 GB/s, a launch 30 us" in " ".join(again.stderr.split())


@pytest.mark.slow
def test_artifacts_that_are_not_alike(refused, steps: Path, artifact: Path) -> None:
    sentence = refused("bench", steps / "sparse", "--compare", artifact)
    assert "cannot be compared" in sentence
    assert "one is for opencl, the other for cpu" in sentence
    other = run("compile", "net.py:make", *SMALL, "--batch", "4", "--output", "four")
    assert other.exit_code == 0
    assert "since their batch differs (8 and 4)" in refused("bench", artifact, "--compare", "four")


def test_no_such_key(run, artifact: Path, tracker: str) -> None:
    done = run("bench", artifact, "--tracker", tracker, "--key", "hree")
    assert done.exit_code == FAILED
    assert "did you mean 'here'" in done.stderr.splitlines()[-1]


def test_a_device_that_another_client_has(mest, artifact: Path, tracker: str) -> None:
    held = connection.open(Where.of(tracker=tracker, key="here"))

    other = threading.Timer(1, held.close)
    other.start()
    done = mest("bench", artifact, "--tracker", tracker, "--key", "here", "--rounds", "1")
    other.join()
    assert "waiting for a device (1 in use, 1 waiting): " in done.stderr


@pytest.mark.slow
def test_sparse_and_dense_in_turn_here(mest, steps: Path) -> None:
    done = mest("bench", steps / "sparse", "--compare", steps / "dense", "--rounds", "2", "--json", "-")
    result = json.loads(done.stdout)
    assert set(result["ms"]) == {"sparse", "dense"}
    assert result["speedup"]["dense"] == pytest.approx(result["ms"]["dense"] / result["ms"]["sparse"])
