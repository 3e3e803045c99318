"""A data set's files as a run remembers them: what is another one, what is a copy, and what a checkpoint keeps."""

import os

import numpy as np
import pytest

from mest_compiler.errors import CheckpointError, DataError
from mest_compiler.training import data_files
from mest_compiler.training.data_files import Changes, DataFiles

NAMES = [f"train/a/{i}.png" for i in range(90)] + ["val/a/0.png"]


@pytest.fixture
def paths(tmp_path):
    for i, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes([i]) * 100)
    return {name: tmp_path / name for name in NAMES}


def touch(path, seconds=5):
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + seconds * 10**9))


def test_nothing_changed_is_no_change_and_reads_nothing(paths, monkeypatch):
    before = DataFiles.of(paths)
    monkeypatch.setattr(data_files, "_hash", lambda path: pytest.fail(f"{path} is read"))
    assert not DataFiles.of(paths, before).changes_since(before)


def test_other_times_alone_are_a_copy(paths):
    before = DataFiles.of(paths)
    for path in list(paths.values())[:7]:
        touch(path)
    now = DataFiles.of(paths, before)
    assert not now.changes_since(before)
    assert now != before  # the times are the new ones, so that nothing is read next time
    assert not DataFiles.of(paths, now).changes_since(now)


@pytest.mark.parametrize("name", [NAMES[0], NAMES[80], NAMES[-1]])
@pytest.mark.parametrize("size", [100, 50])
def test_any_replaced_file_is_named(name, size, paths):
    before = DataFiles.of(paths)
    paths[name].write_bytes(b"x" * size)
    touch(paths[name])
    assert DataFiles.of(paths, before).changes_since(before) == Changes(changed=(name,))


def test_a_sentence_counts_and_names_the_first(paths):
    before = DataFiles.of(paths)
    for name in NAMES[:5]:
        paths[name].write_bytes(b"repaired")
    paths["train/a/new.png"] = paths.pop(NAMES[10])
    said = str(DataFiles.of(paths, before).changes_since(before))
    assert said == (
        "5 changed (train/a/0.png, train/a/1.png, train/a/2.png and 2 more), 1 missing (train/a/10.png), "
        "1 new (train/a/new.png)"
    )


def test_of_data_that_were_too_large_to_read_all_other_times_are_a_copy_and_some_are_not(paths, monkeypatch):
    monkeypatch.setattr(data_files, "HASHED_BYTES", 1000)
    monkeypatch.setattr(data_files, "_hash", lambda path: pytest.fail(f"{path} is read"))
    before = DataFiles.of(paths)
    touch(paths[NAMES[3]])
    some = DataFiles.of(paths, before)
    assert some.changes_since(before) == Changes(uncertain=(NAMES[3],))
    assert "1 perhaps changed (same size, other time) (train/a/3.png)" in str(some.changes_since(before))
    for path in paths.values():
        touch(path)
    copy = DataFiles.of(paths, before)
    assert copy.copies_unread(before)
    assert not copy.changes_since(before)
    paths[NAMES[3]].write_bytes(b"another size")
    assert DataFiles.of(paths, before).changes_since(before).changed == (NAMES[3],)


def test_a_checkpoint_keeps_all_and_little(paths):
    paths["train/a/odd\udcff\n.png"] = paths[NAMES[0]]  # names are bytes
    files = DataFiles.of(paths)
    arrays = files.arrays()
    assert DataFiles.from_arrays(arrays, "it") == files
    assert sum(array.nbytes for array in arrays.values()) < 40 * len(NAMES)
    assert DataFiles({}).arrays() == {}
    assert DataFiles.from_arrays({"events": np.zeros(3)}, "it") is None


@pytest.mark.parametrize(
    "damage",
    [
        {"file_names": None}, {"file_names": np.zeros(5, np.uint8)}, {"file_times": None},
        {"file_sizes": np.zeros(3, np.int64)}, {"file_hashes": np.zeros(len(NAMES), np.int64)},
    ],
)  # fmt: skip
def test_a_damaged_list_is_refused(damage, paths):
    arrays = DataFiles.of(paths).arrays() | damage
    with pytest.raises(CheckpointError, match="it holds a damaged list of its data's files"):
        DataFiles.from_arrays({key: array for key, array in arrays.items() if array is not None}, "it")


def test_a_file_that_is_gone_is_named(paths):
    paths[NAMES[1]].unlink()
    with pytest.raises(DataError, match=r"train/a/1\.png cannot be read \(No such file"):
        DataFiles.of(paths)
