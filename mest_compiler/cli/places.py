"""Checks of where a command is going to write, before the long work that comes first."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mest_compiler.errors import ArtifactError

PROBE_BYTES = 1 << 16


def check_writable(path: Path) -> None:
    """Raise OSError, naming the place, unless something can be made at `path`; leaves nothing there.

    Tried, and not asked for: permissions say little to root, nothing about a full disk or a read-only mount.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        handle, name = tempfile.mkstemp(prefix=".mest-", dir=folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        with os.fdopen(handle, "wb") as probe:
            probe.write(bytes(PROBE_BYTES))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.unlink(name)


@contextmanager
def no_empty_folders(path: Path) -> Iterator[None]:
    """If the block fails, remove those folders on the way to `path` that it made and left empty, `path` included."""
    absolute = path.absolute()
    new = [folder for folder in (absolute, *absolute.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in new:
            if not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()
        raise


def check_artifact_place(path: Path) -> None:
    """Raise unless an artifact can be saved at `path`.

    Raises:
        ArtifactError: there is something else. OSError: nothing can be written there.
    """
    from mest_compiler.runtime.artifact import is_artifact

    if path.exists() and not is_artifact(path):
        raise ArtifactError(f"{path} exists and is no artifact: remove it or choose another name.")
    check_writable(path)
