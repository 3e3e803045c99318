"""The one place that writes files, so that a reader sees the old file or the new one whenever a process is killed, a
disk is full or a folder is read-only.

A file or a folder is made under a temporary name beside its own, brought to the disk, renamed, and the folder around it
is brought to the disk too. A killed process leaves at most the temporary, `.NAME.PID.RANDOM.part`, which the next write
to NAME removes once that process is gone. A symbolic link stays one: what it points to is replaced. What is no regular
file (a pipe, /dev/null) is written into. Modes follow the umask.

Logs alone grow in place, by `append_line`: a line that was cut short, by a kill or a full disk, has no end. Readers
leave such a last line out, and the next line takes its place. One process at a time writes a log.

Errors are OSErrors that name the path that was asked for. Scratch files that no user asked for lie in temporary folders
and need none of this.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PART, ASIDE = "part", "old"
"""Ends of temporary names: what is being written, and an old folder that stands aside for a new one."""
LONGEST = 200
"""Bytes of a name that its temporary name repeats: file systems allow 255 with the rest."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})
"""What a file system answers that cannot exchange names, or cannot bring a folder to the disk."""

_mine: set[Path] = set()
"""Temporaries that this process writes now: another one with its id, such as that of a killed container, is over."""


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    with _naming(path):
        if _special(Path(path)):
            Path(path).write_bytes(data)
            return
        target = resolved(path)
        clear_leftovers(target)
        with _temporary(target) as temporary:
            _fill(temporary, data)
            os.replace(temporary, target)
            _sync_folder(target.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all; errors as of `write_bytes`."""
    write_bytes(path, text.encode())


def write_png(path: str | Path, canvas: Figure, dpi: int) -> None:
    """Write a picture to `path`, whole or not at all; errors as of `write_bytes`."""
    drawn = io.BytesIO()
    canvas.savefig(drawn, format="png", dpi=dpi)
    write_bytes(path, drawn.getvalue())


def write_folder(path: str | Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files by name, whole or not at all; it replaces what was there, and all that was in it.

    Where the file system cannot exchange two folders in one step, a kill may leave the old one aside: `restore` puts it
    back.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    with _naming(path):
        target = resolved(path)
        clear_leftovers(target)
        with _temporary(target) as temporary:
            temporary.mkdir()
            for name, data in files.items():
                _fill(temporary / name, data)
            _sync_folder(temporary)
            _put_folder(temporary, target)
            _sync_folder(target.parent)


def append_line(path: str | Path, line: str) -> None:
    """Append `line` (UTF-8, without its end) to a log, which is made where there is none; on a failure the log is as it
    was.

    A last line without its end is taken off first.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    with _naming(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            end = _end_of_lines(handle)
            os.ftruncate(handle, end)
            os.lseek(handle, end, os.SEEK_SET)
            try:
                _write(handle, line.encode() + b"\n")
                os.fsync(handle)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(handle, end)
                raise
        finally:
            os.close(handle)
        if end == 0:
            _sync_folder(resolved(path).parent)


def remove(path: str | Path) -> None:
    """Remove a file or a folder, whole or not at all, or nothing where nothing is.

    Raises:
        OSError: it cannot be removed; names `path`.
    """
    with _naming(path):
        target = resolved(path)
        if os.path.lexists(target):
            with _temporary(target) as temporary:
                os.rename(target, temporary)


def try_out(path: Path, size: int) -> None:
    """Raise OSError, naming `path`, unless a file of `size` bytes can be made there; leaves nothing."""
    with _naming(path):
        if not _special(path):
            target = resolved(path)
            clear_leftovers(target)
            with _temporary(target) as temporary:
                _fill(temporary, bytes(size))


def restore(path: Path) -> None:
    """Put back a folder that stood aside when the process was killed that replaced it, if `path` has none."""
    target = resolved(path)
    if not os.path.lexists(target):
        for leftover in leftovers(target):
            if leftover.suffix == f".{ASIDE}":
                os.rename(leftover, target)
                return


def clear_leftovers(path: Path) -> None:
    """Remove what processes left beside `path` that were killed while they wrote it; restores it first."""
    target = resolved(path)
    restore(target)
    for leftover in leftovers(target):
        _remove(leftover)


def leftovers(path: Path) -> list[Path]:
    """Temporaries of `path`, links resolved, whose processes are gone."""
    target = resolved(path)
    form = re.compile(rf"\.{re.escape(_stem(target))}\.(\d+)\.[0-9a-f]{{8}}\.({PART}|{ASIDE})")
    try:
        names = os.listdir(target.parent)
    except OSError:  # no such folder, or none that shows its files: there is nothing to be found
        return []
    found = [(target.parent / name, match[1]) for name in sorted(names) if (match := form.fullmatch(name))]
    return [place for place, pid in found if place not in _mine and (int(pid) == os.getpid() or not _alive(int(pid)))]


def resolved(path: str | Path) -> Path:
    """Where a path leads: the end of its symbolic links, absolute."""
    return Path(os.path.realpath(path))


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """OSErrors of the block name the path that was asked for, not the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A free name beside `target`; what is there in the end is removed."""
    path = _name(target, PART)
    _mine.add(path)
    try:
        yield path
    finally:
        with suppress(OSError):  # what went wrong before says more
            _remove(path)
        _mine.discard(path)


def _name(target: Path, end: str) -> Path:
    return target.with_name(f".{_stem(target)}.{os.getpid()}.{secrets.token_hex(4)}.{end}")


def _stem(target: Path) -> str:
    return os.fsdecode(os.fsencode(target.name)[:LONGEST])


def _fill(path: Path, data: bytes) -> None:
    """Make a file and bring it to the disk: a power cut must not leave a name with nothing behind it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _put_folder(temporary: Path, target: Path) -> None:
    """Give a folder its name; what had the name gets the temporary one."""
    if not os.path.lexists(target):
        os.rename(temporary, target)
    elif not _exchanged(temporary, target):
        aside = _name(target, ASIDE)
        os.rename(target, aside)
        try:
            os.rename(temporary, target)
        except OSError:
            os.rename(aside, target)
            raise
        os.rename(aside, temporary)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code))


def _sync_folder(path: Path) -> None:
    """Bring the names of a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def _end_of_lines(handle: int) -> int:
    """Bytes of a file up to its last line's end."""
    size = os.fstat(handle).st_size
    if size == 0 or os.pread(handle, 1, size - 1) == b"\n":
        return size
    with open(os.dup(handle), "rb") as file:
        file.seek(0)
        return file.read().rfind(b"\n") + 1


def _special(path: Path) -> bool:
    """Whether something is there that is neither a file nor a folder."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, or nothing where nothing is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    """Whether there is a process of this id; one of another user's is there too."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
