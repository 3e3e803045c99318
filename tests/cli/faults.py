"""What a command leaves when one of its writes is broken: every write is counted, those that pass by the one writer are
found, and each is broken by a kill, by a full disk, and by a folder that is read-only from there on.

A kill is a copy of the folder at that moment: nothing of a process runs after SIGKILL. `tests/house/test_files.py`
kills processes for real.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mest_compiler import files
from mest_compiler.runtime.artifact import MANIFEST, Artifact

TEMPORARY = re.compile(r"\.(.+)\.\d+\.[0-9a-f]{8}\.(part|old)")
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
FULL, READ_ONLY = "full", "read-only"
IGNORED = shutil.ignore_patterns("__pycache__")

Tree = dict[str, bytes | None]
"""What is in a folder, by path: the bytes of a file, None for a folder."""


def tree(root: Path) -> Tree:
    """All that is in a folder, but for what Python compiles."""
    found = (path for path in sorted(root.rglob("*")) if "__pycache__" not in path.parts)
    return {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in found}


@dataclass
class Watch:
    """One run of a command in the folder `root`.

    fault, breaks: what breaks, with the write of this number (from 0) and from there on. copies: where to keep the
    folder as it was in each moment of each write. names: of the files written, in order. whole: what a file of a name
    may hold. logs: those that were appended to. strays: what was opened to be written by anyone but the writer.
    moments: (number of the write, moment, copy).
    """

    root: Path
    fault: str = ""
    breaks: int = -1
    copies: Path | None = None
    names: list[str] = field(default_factory=list)
    whole: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    logs: set[str] = field(default_factory=set)
    strays: set[str] = field(default_factory=set)
    moments: list[tuple[int, str, Path]] = field(default_factory=list)
    read_only: bool = False

    def moment(self, which: str) -> None:
        """Keeps a copy."""
        if self.copies is not None:
            copy = self.copies / str(len(self.moments))
            shutil.copytree(self.root, copy, ignore=IGNORED)
            self.moments.append((len(self.names) - 1, which, copy))

    def opened(self, path: Path, by_writer: bool) -> None:
        """Something is opened to be written."""
        if not by_writer:
            self.strays.add(str(path.relative_to(self.root)))
        elif self.fault == READ_ONLY and len(self.names) == self.breaks:
            self.read_only = True

    def write(self, handle: int, data: bytes) -> None:
        """Takes the place of `files._write`."""
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if not path.is_relative_to(self.root):
            _write(handle, data)
            return
        match, old = TEMPORARY.fullmatch(path.name), path.read_bytes()
        name = match[1] if match else path.name
        if not match and not TEMPORARY.fullmatch(path.parent.name):
            self.logs.add(name)
        self.names.append(name)
        self.whole[name] |= {old, old + data} if name in self.logs else {bytes(data)}
        self.moment("begun")
        _write(handle, data[: len(data) // 2])
        if self.fault == FULL and len(self.names) > self.breaks:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.moment("half")
        _write(handle, data[len(data) // 2 :])
        self.moment("written")

    def sync_folder(self, folder: Path) -> None:
        """Takes the place of `files._sync_folder`."""
        _sync_folder(folder)
        if folder.is_relative_to(self.root):
            self.moment("named")

    def check(self, before: Tree, after: Path, *, killed: bool = False) -> None:
        """Fails unless every file is the old one or a new one, and nothing is beside them.

        before: the folder before the command. killed: temporaries of the writer may be there, for the next run.
        """
        state = tree(after)
        assert {path for path, data in before.items() if data is not None} <= state.keys()
        for path, data in state.items():
            place = Path(path)
            if beside := next((p for p in (*reversed(place.parents), place) if TEMPORARY.fullmatch(p.name)), None):
                assert killed or self.read_only, f"{path} is left"
                named = after / beside.with_name(TEMPORARY.fullmatch(beside.name)[1])
                assert after / beside in files.leftovers(named), f"the next run does not know {path}"
            elif data is None:
                assert killed or self.read_only or path in before or any((after / path).iterdir()), f"{path} is empty"
                if (after / path / MANIFEST).exists():
                    Artifact.load(after / path)  # whose files belong together
            elif before.get(path) != data:
                whole = data[: data.rfind(b"\n") + 1] if place.name in self.logs else data
                assert whole in self.whole[place.name], f"{path} is half a file"


_write, _sync_folder = files._write, files._sync_folder
_watches: list[Watch] = []


def _audit(event: str, arguments: tuple) -> None:
    """Called by Python whenever it opens or changes a file, whoever asks for it."""
    if not _watches or (event != "open" and event not in CHANGES) or not isinstance(arguments[0], str | Path):
        return
    watch, path = _watches[-1], Path(os.path.abspath(arguments[0]))
    if not path.is_relative_to(watch.root) or "__pycache__" in path.parts:
        return
    if event == "open":
        if not arguments[2] & WRITES:
            return
        watch.opened(path, sys._getframe(1).f_globals.get("__name__") == files.__name__)
    if watch.read_only:
        raise OSError(errno.EROFS, "Read-only file system", str(path))


sys.addaudithook(_audit)


@contextmanager
def watched(watch: Watch) -> Iterator[Watch]:
    """Within it, what is written in the watch's root is seen and broken as it says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_write", watch.write)
        patch.setattr(files, "_sync_folder", watch.sync_folder)
        _watches.append(watch)
        try:
            yield watch
        finally:
            _watches.pop()
