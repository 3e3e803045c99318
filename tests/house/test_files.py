"""The one writer: the old file or the new one, nothing beside it, and errors that name what was asked for."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mest_compiler import files

GONE = 2**22 + 1
"""No process has this id: Linux gives ids up to 2**22."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_replaces_another(tmp_path: Path) -> None:
    target = tmp_path / "a"
    for data in (b"old", b"", b"x" * 100_000):
        files.write_bytes(target, data)
        assert contents(tmp_path) == {"a": data}


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "ä")
        files.append_line(tmp_path / "log", "{}")
        files.write_folder(tmp_path / "f", {"x": b""})
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "log", "f", "f/x")}
    assert modes == {"a": 0o640, "log": 0o640, "f": 0o750, "f/x": 0o640}


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name, target in (("a", "there/a"), ("f", "there/f"), ("log", "there/log")):
        (tmp_path / name).symlink_to(target)
    for data in (b"1", b"2"):
        files.write_bytes(tmp_path / "a", data)
        files.write_folder(tmp_path / "f", {"x": data})
        files.append_line(tmp_path / "log", data.decode())
    assert (tmp_path / "there/a").read_bytes() == (tmp_path / "there/f/x").read_bytes() == b"2"
    assert (tmp_path / "there/log").read_text() == "1\n2\n"
    assert all((tmp_path / name).is_symlink() for name in ("a", "f", "log"))
    assert (names(tmp_path), names(tmp_path / "there")) == (["a", "f", "log", "there"], ["a", "f", "log"])


def test_what_is_no_file_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    files.try_out(pipe, 10)
    files.write_text(pipe, "said")
    assert reader.communicate(timeout=30)[0] == b"said"
    assert names(tmp_path) == ["pipe"] and stat.S_ISFIFO(pipe.stat().st_mode)
    files.write_text("/dev/null", "said")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("none/a", errno.ENOENT),
        ("file/a", errno.ENOTDIR),
        ("folder", errno.EISDIR),
        ("loop", errno.ELOOP),
        ("n" * 256, errno.ENAMETOOLONG),
    ],
)
def test_errors_name_what_was_asked_for(tmp_path: Path, path: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    for write in (lambda: files.write_bytes(path, b""), lambda: files.append_line(path, "")):
        with pytest.raises(OSError) as caught:
            write()
        assert (caught.value.errno, caught.value.filename) == (code, path)
    assert names(tmp_path) == ["file", "folder", "loop"]


def test_a_long_name_has_a_temporary_one(tmp_path: Path) -> None:
    name = "ä" * 127
    files.write_text(tmp_path / name, "a")
    assert names(tmp_path) == [name]


def test_a_folder_replaces_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "f"
    for exchange in (True, False):  # as some network file systems, which cannot
        if not exchange:
            monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
        files.write_folder(target, {"a": b"1", "b": b"2"})
        assert contents(target) == {"a": b"1", "b": b"2"}
        files.write_folder(target, {"a": b"3", "c": b"4"})
        assert contents(target) == {"a": b"3", "c": b"4"}
        assert names(tmp_path) == ["f"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, rename = tmp_path / "f", os.rename
    files.write_folder(target, {"a": b"1"})

    def refuses(one: Path, other: Path) -> None:
        if str(one).endswith(".part"):
            raise OSError(errno.EIO, "Input/output error", str(one))
        rename(one, other)

    monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    monkeypatch.setattr(os, "rename", refuses)
    with pytest.raises(OSError, match=r"Input/output error: '.*/f'"):
        files.write_folder(target, {"a": b"2"})
    assert contents(target) == {"a": b"1"} and names(tmp_path) == ["f"]


def test_a_folder_that_a_kill_left_aside_comes_back(tmp_path: Path) -> None:
    (tmp_path / f".f.{GONE}.0123abcd.old").mkdir()
    (tmp_path / f".f.{GONE}.0123abcd.old" / "a").write_bytes(b"1")
    (tmp_path / f".f.{GONE}.4567abcd.part").mkdir()
    files.restore(tmp_path / "f")
    assert contents(tmp_path / "f") == {"a": b"1"}
    files.clear_leftovers(tmp_path / "f")
    assert names(tmp_path) == ["f"]


def test_only_what_the_dead_left_is_removed(tmp_path: Path) -> None:
    dead = [f".a.{pid}.0123abcd.part" for pid in (GONE, os.getpid())]  # a process id comes again in a container
    kept = [
        f".a.{os.getppid()}.0123abcd.part",  # which is writing it now
        f".b.{GONE}.0123abcd.part", f".a.b.{GONE}.0123abcd.part", ".a.part", ".a.swp", f".a.{GONE}.part",
    ]  # fmt: skip
    for name in (*dead, *kept):
        (tmp_path / name).touch()
    files.write_text(tmp_path / "a", "new")
    assert names(tmp_path) == sorted(["a", *kept])


@pytest.mark.parametrize("torn", ["", '{"epoch": 3, "lo', "x" * 200_000])
def test_a_line_takes_the_place_of_a_torn_one(tmp_path: Path, torn: str) -> None:
    log = tmp_path / "log"
    for before in ("", "1\n", "1\n2\n"):
        log.write_text(before + torn)
        files.append_line(log, "next")
        assert log.read_text() == before + "next\n"


def test_a_line_that_does_not_fit_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    files.append_line(log, "first")
    with monkeypatch.context() as patch:
        patch.setattr(files, "_write", half_then(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match=r"No space left on device: '.*/log'"):
            files.append_line(log, "second")
    assert log.read_text() == "first\n"
    files.append_line(log, "third")
    assert log.read_text() == "first\nthird\n"


def half_then(error: OSError):
    def write(handle: int, data: bytes) -> None:
        os.write(handle, bytes(data)[: len(data) // 2])
        raise error

    return write


def test_removed_whole(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "f", {"a": b"1"})
    files.write_text(tmp_path / "a", "1")
    for name in ("f", "a", "none"):
        files.remove(tmp_path / name)
    assert names(tmp_path) == []


KILLED = """
import os, signal, sys
from mest_compiler import files

def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def half(handle, data):
    os.write(handle, bytes(data)[: len(data) // 2])
    dies()

point, path = sys.argv[1:]
if point == "half":
    files._write = half
elif point == "written":
    os.replace = os.rename = files._exchanged = dies
else:
    sync = files._sync_folder
    files._sync_folder = lambda folder: sync(folder) if folder.name.endswith(".part") else dies()
if path.endswith("log"):
    files.append_line(path, "new" * 1000)
elif path.endswith("folder"):
    files.write_folder(path, {"a": b"new" * 1000, "b": b"new"})
else:
    files.write_text(path, "new" * 1000)
"""


def killed(point: str, path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, point, path], timeout=60)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("point", "found"), [("half", "old"), ("written", "old"), ("named", "new" * 1000)])
def test_a_kill_while_a_file_is_written(tmp_path: Path, point: str, found: str) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    killed(point, path)
    assert path.read_text() == found
    files.write_text(path, "next")
    assert contents(tmp_path) == {"file": b"next"}


@pytest.mark.parametrize(("point", "found"), [("half", b"old"), ("written", b"old"), ("named", b"new" * 1000)])
def test_a_kill_while_a_folder_is_written(tmp_path: Path, point: str, found: bytes) -> None:
    path = tmp_path / "folder"
    files.write_folder(path, {"a": b"old", "b": b"old"})
    killed(point, path)
    assert contents(path) == {"a": found, "b": found[:3]}
    files.write_folder(path, {"a": b"next"})
    assert names(tmp_path) == ["folder"] and contents(path) == {"a": b"next"}


def test_a_kill_while_a_line_is_written(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\n")
    killed("half", log)
    whole, torn = log.read_text().split("\n")
    assert whole == "old" and 0 < len(torn) < 3000
    files.append_line(log, "next")
    assert log.read_text() == "old\nnext\n"
