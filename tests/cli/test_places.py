"""Where commands write is tried before their work, and the trial leaves nothing."""

import errno
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mest_compiler.cli.places import check_artifact_place, check_writable, no_empty_folders
from mest_compiler.errors import ArtifactError
from mest_compiler.runtime.artifact import is_artifact


@contextmanager
def full() -> Iterator[None]:
    """No file of this process can grow beyond 1,000 bytes, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_place_in_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "step")
    assert list(tmp_path.iterdir()) == []


def test_no_room(tmp_path: Path) -> None:
    with full(), pytest.raises(OSError, match="File too large") as caught:
        check_writable(tmp_path / "step")
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "step")
    assert list(tmp_path.iterdir()) == []


def test_something_else_is_there(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    with pytest.raises(ArtifactError, match="thesis exists and is no artifact: remove it or choose another name"):
        check_artifact_place(tmp_path / "thesis")


def test_an_artifact_is_there(artifact: Path) -> None:
    assert is_artifact(artifact)
    check_artifact_place(artifact)


def test_folders_made_in_vain_are_removed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(KeyError), no_empty_folders(tmp_path / "old" / "a" / "b"):
        (tmp_path / "old" / "a" / "b").mkdir(parents=True)
        raise KeyError
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]
    assert list((tmp_path / "old").iterdir()) == []


def test_folders_with_something_in_them_stay(tmp_path: Path) -> None:
    with pytest.raises(KeyError), no_empty_folders(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "note").touch()
        raise KeyError
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["note"]
