"""How a run knows its data again: all files by name, size and time, and by a hash of what is in them.

A time may change without a change of content, as in a copy, so a file with another time is read and compared. The list
is part of the checkpoint, as arrays: names, compressed, sizes, times and hashes.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mest_compiler.errors import CheckpointError, DataError

HASHED_BYTES = 2**33
"""Of larger data sets no file is read for its hash: that would take minutes before the first step."""
NOT_HASHED = 0
READ_AT_ONCE = 2**20
NAMED = 3
"""So many files of a kind are named in a sentence."""

_NAMES, _NUMBERS = "file_names", ("file_sizes", "file_times", "file_hashes")
_TYPES = (np.int64, np.int64, np.uint64)


@dataclass(frozen=True)
class FileFacts:
    """size: bytes; time: of the last change, ns; hash: 64 bits of the content, or NOT_HASHED."""

    size: int
    time: int
    hash: int


@dataclass(frozen=True)
class Changes:
    """Names of files that are other ones now: changed, missing, new; and uncertain: of the same size, with another time
    and of unknown content.
    """

    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.missing or self.new or self.uncertain)

    def __str__(self) -> str:
        """How many there are of each kind, and the first names."""
        kinds = {
            "changed": self.changed, "missing": self.missing, "new": self.new,
            "perhaps changed (same size, other time)": self.uncertain,
        }  # fmt: skip
        return ", ".join(f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names)


@dataclass(frozen=True)
class DataFiles:
    """The files of a data set by their names below its folder; none where it is read from no files."""

    files: Mapping[str, FileFacts]

    @classmethod
    def of(cls, paths: Mapping[str, Path], known: DataFiles | None = None) -> DataFiles:
        """The files as they are now; what `known` has with the same size and time is not read again.

        Raises:
            DataError: one is gone or cannot be read.
        """
        with ThreadPoolExecutor(thread_name_prefix="mest-files") as pool:
            now = dict(zip(paths, pool.map(_stamped, paths.values()), strict=True))
            before, unknown = {} if known is None else known.files, []
            for name, facts in now.items():
                old = before.get(name)
                if old is not None and (old.size, old.time) == (facts.size, facts.time):
                    now[name] = old
                else:
                    unknown.append(name)
            if sum(facts.size for facts in now.values()) > HASHED_BYTES:
                unknown = []
            for name, found in zip(unknown, pool.map(_hash, [paths[name] for name in unknown]), strict=True):
                now[name] = FileFacts(now[name].size, now[name].time, found)
        return cls(now)

    def changes_since(self, before: DataFiles) -> Changes:
        """What is another one than it was."""
        both = [name for name in self.files if name in before.files]
        changed, uncertain = [], []
        for name in both:
            old, new = before.files[name], self.files[name]
            if old.size != new.size or (old.hash and new.hash and old.hash != new.hash):
                changed.append(name)
            elif old.time != new.time and not (old.hash and new.hash):
                uncertain.append(name)
        if self.copies_unread(before):
            uncertain = []
        missing = [name for name in before.files if name not in self.files]
        new = [name for name in self.files if name not in before.files]
        return Changes(*(tuple(sorted(names)) for names in (changed, missing, new, uncertain)))

    def copies_unread(self, before: DataFiles) -> bool:
        """Whether all have their names and sizes, other times, and contents that are not known to be the same: nobody
        repairs all files, so they were copied.
        """
        return (
            bool(self.files)
            and self.files.keys() == before.files.keys()
            and all(
                old.size == new.size and old.time != new.time and not (old.hash and new.hash)
                for old, new in ((before.files[name], facts) for name, facts in self.files.items())
            )
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """For a checkpoint; nothing without files."""
        if not self.files:
            return {}
        names = "\0".join(self.files).encode("utf-8", "surrogateescape")
        facts = self.files.values()
        numbers = ([f.size for f in facts], [f.time for f in facts], [f.hash for f in facts])
        arrays = {key: np.array(n, t) for key, n, t in zip(_NUMBERS, numbers, _TYPES, strict=True)}
        return {_NAMES: np.frombuffer(zlib.compress(names), np.uint8), **arrays}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], source: str) -> DataFiles | None:
        """Back from `arrays`; None where there are none. CheckpointError, naming `source`, when they are damaged."""
        keys = (_NAMES, *_NUMBERS)
        if not any(key in arrays for key in keys):
            return None
        try:
            names = zlib.decompress(arrays[_NAMES].tobytes()).decode("utf-8", "surrogateescape").split("\0")
            numbers = [arrays[key] for key in _NUMBERS]
            if any(n.dtype != t or n.shape != (len(names),) for n, t in zip(numbers, _TYPES, strict=True)):
                raise ValueError("sizes, times and hashes of other files")
        except (KeyError, ValueError, zlib.error) as error:
            raise CheckpointError(
                f"{source} holds a damaged list of its data's files ({error}): use another one"
            ) from None
        facts = (FileFacts(*numbers) for numbers in zip(*(n.tolist() for n in numbers), strict=True))
        return cls(dict(zip(names, facts, strict=True)))


def _first(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _stamped(path: Path) -> FileFacts:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): correct or remove it") from None
    return FileFacts(found.st_size, found.st_mtime_ns, NOT_HASHED)


def _hash(path: Path) -> int:
    """64 bits of a file's content, never NOT_HASHED."""
    state = hashlib.blake2b(digest_size=8)
    try:
        with path.open("rb") as file:
            while part := file.read(READ_AT_ONCE):
                state.update(part)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): correct or remove it") from None
    return int.from_bytes(state.digest(), "little") or 1
