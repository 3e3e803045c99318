"""Checks of where a command is going to write, before the long work that comes first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mest_compiler.errors import ArtifactError
from mest_compiler.files import resolved, try_out

PROBE_BYTES = 1 << 16


def check_writable(path: Path) -> None:
    """Raise OSError, naming the place, unless something can be made at `path`; leaves nothing there.

    Tried, and not asked for: permissions say little to root, nothing about a full disk or a read-only mount.
    """
    target = resolved(path)
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    try:
        try_out(path if folder == target.parent else folder / target.name, PROBE_BYTES)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


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


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Within it there is this folder; if the block fails, folders that it needed and left empty go again."""
    with no_empty_folders(folder):
        folder.mkdir(parents=True, exist_ok=True)
        yield


def check_artifact_place(path: Path) -> None:
    """Raise unless an artifact can be saved at `path`.

    Raises:
        ArtifactError: there is something else. OSError: nothing can be written there.
    """
    from mest_compiler.runtime.artifact import is_artifact

    if path.exists() and not is_artifact(path):
        raise ArtifactError(f"{path} exists and is no artifact: remove it or choose another name.")
    check_writable(path)
