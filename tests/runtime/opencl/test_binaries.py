"""Kernels' binaries are kept on disk: used when they are whole and fit, made anew when not."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import tvm

from .kernels import built, twice_plus_one


def counts() -> tuple[int, int]:
    """How many kernels were built from source so far, and how many were taken from the cache."""
    found = json.loads(tvm.get_global_func("mest.opencl.counts")(0))
    return found["built"], found["cached"]


def run(device: tvm.runtime.Device, dtype: str = "float32") -> tuple[int, int]:
    """Runs a kernel in a module of its own; what was built and what was taken from the cache for it."""
    before = counts()
    x = np.arange(100, dtype=dtype)
    y = tvm.runtime.empty((100,), dtype, device)
    built(cached=twice_plus_one(dtype))["cached"](tvm.runtime.tensor(x, device), y)
    np.testing.assert_array_equal(y.numpy(), 2 * x + 1)
    after = counts()
    return after[0] - before[0], after[1] - before[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, in use."""
    monkeypatch.setenv("MEST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "opencl"


def test_a_binary_is_used_again(opencl: tvm.runtime.Device, folder: Path) -> None:
    assert [run(opencl), run(opencl), run(opencl, "float64")] == [(1, 0), (0, 1), (1, 0)]
    assert sorted(path.suffix for path in folder.iterdir()) == [".clbin"] * 2  # and no file half written


def test_nothing_is_kept_without_a_folder(
    opencl: tvm.runtime.Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEST_CACHE", "")
    assert [run(opencl), run(opencl)] == [(1, 0), (1, 0)]
    monkeypatch.setenv("MEST_CACHE", "/dev/null/cache")  # a folder that cannot be
    assert [run(opencl), run(opencl)] == [(1, 0), (1, 0)]


def fnv(text: bytes) -> int:
    """The checksum in the cache's files."""
    digest = 0xCBF29CE484222325
    for byte in text:
        digest = (digest ^ byte) * 0x100000001B3 % (1 << 64)
    return digest


def split(file: bytes) -> tuple[bytes, bytes]:
    """A file's key with all that stands before the binary, and the binary."""
    size = struct.unpack_from("<Q", file, 8)[0]
    return file[: 8 + 16 + size], file[8 + 16 + size + 16 :]


def frame(text: bytes) -> bytes:
    """A binary as it stands in a file."""
    return struct.pack("<QQ", len(text), fnv(text)) + text


DAMAGES = {
    "empty": lambda file: b"",
    "cut off": lambda file: file[:-1],
    "longer": lambda file: file + b"x",
    "one bit": lambda file: file[:-9] + bytes([file[-9] ^ 1]) + file[-8:],
    "of another form": lambda file: b"MESTCL0\n" + file[8:],
    "of another kernel": lambda file: file[:8] + frame(b"another key") + frame(split(file)[1]),
    "nonsense with a right checksum": lambda file: split(file)[0] + frame(b"nonsense"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(opencl: tvm.runtime.Device, folder: Path, damage: str) -> None:
    assert run(opencl) == (1, 0)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    assert split(whole)[0] + frame(split(whole)[1]) == whole
    path.write_bytes(DAMAGES[damage](whole))
    assert run(opencl) == (1, 0)
    assert run(opencl) == (0, 1)
