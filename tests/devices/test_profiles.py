"""Device profiles: the package's own, and a user's files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mest_compiler.devices import NAMES, CpuProfile, OpenClProfile, get_device, measured
from mest_compiler.errors import DeviceError


def test_the_packages_own() -> None:
    assert NAMES == ("cpu", "opencl", "galaxy-s20")
    assert isinstance(get_device("cpu", 1), CpuProfile)
    assert get_device("opencl") == OpenClProfile("opencl")


def test_adreno_650() -> None:
    phone = get_device("galaxy-s20")
    assert (phone.work_group, phone.local_bytes, phone.buffer_bytes) == (1024, 32 * 1024, 952 * 2**20)
    assert (phone.doubles, phone.halves) == (False, True)
    assert str(phone.target.host.attrs["mtriple"]) == "aarch64-linux-android"
    with pytest.raises(DeviceError, match="galaxy-s20 compute in float32, not in float64"):
        phone.lanes("float64")


def test_a_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mali.yaml"
    path.write_text("description: mine\nhost: aarch64-linux-android\nwork_group: 256\npeak_gbs: 30\n")
    assert get_device(str(path)) == OpenClProfile("mali", host="aarch64-linux-android", work_group=256, peak_gbs=30.0)
    path.write_text("name: g78\n")
    assert get_device(str(path)) == replace(get_device("opencl"), name="g78")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("workgroup: 256", "unknown key 'workgroup': did you mean 'work_group'"),
        ("zzz: 1", "unknown key 'zzz': it may have name, batch_lanes"),
        ("work_group: many", "'work_group' of .* is 'many': it must be a whole number"),
        ("work_group: true", "it must be a whole number"),
        ("work_group: 0", "it must be 1 to 65536"),
        ("local_bytes: -1", "it must be 0 to"),
        ("batch_lanes: 10", "it must be a multiple of 4"),
        ("doubles: 1", "it must be true or false"),
        ("peak_gbs: fast", "it must be a number or nothing"),
        ("host: android", "it must be an LLVM triple"),
        ("name: two words", "it must be one word"),
        ("- 1", "holds no keys"),
        ("", "holds no keys"),
        ("a: [1", "is no YAML"),
        ("!!python/object/apply:os.getcwd []", "is no YAML"),
    ],
)
def test_what_is_no_profile(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(DeviceError, match=sentence) as raised:
        get_device(str(path))
    assert "\n" not in str(raised.value)


def test_names_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"There is no device 'galaxy-s2': .*; did you mean 'galaxy-s20'"):
        get_device("galaxy-s2")
    with pytest.raises(DeviceError, match=r"There is no device 'gpux': known devices are cpu, .* files\.$"):
        get_device("gpux")
    with pytest.raises(DeviceError, match=r"There is no device profile .*none\.yaml"):
        get_device(str(tmp_path / "none.yaml"))
    with pytest.raises(DeviceError, match="cannot be read: Is a directory"):
        (tmp_path / "folder.yaml").mkdir()
        get_device(str(tmp_path / "folder.yaml"))


def test_what_a_probe_found_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEST_CACHE", str(tmp_path))
    assert measured.load("mine") is None
    path = measured.save("mine", {"numbers": {"launch": {"value": 1.0}}})
    assert measured.load("mine")["numbers"]["launch"]["value"] == 1.0
    path.write_text("{")
    assert measured.load("mine") is None
    monkeypatch.setenv("MEST_CACHE", "")
    assert measured.save("mine", {}) is None
