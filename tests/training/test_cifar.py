"""The readers of CIFAR on small files of the true formats, whole, damaged and hostile."""

import builtins
import dataclasses
import hashlib
import os
import pickle
import struct

import numpy as np
import pytest

from mest_compiler.errors import DataError
from mest_compiler.training.data import cifar_data_set, load_data
from mest_compiler.training.data_cifar import CIFAR10, CIFAR100, read_cifar
from mest_compiler.training.data_files import Changes, DataFiles

# Small files have sums of their own, which the tests of the sums set.
SMALL10 = dataclasses.replace(CIFAR10, train_records=6, test_records=10, md5={})
SMALL100 = dataclasses.replace(CIFAR100, train_records=200, test_records=100, md5={})
FORMS = pytest.mark.parametrize("form", [SMALL10, SMALL100], ids=["cifar10", "cifar100"])


def examples(form, seed):
    """Images uint8 [n, 3072] and labels of one file, every class equally often in a part."""
    rng = np.random.default_rng(seed)
    n = form.test_records if seed == 0 else form.train_records
    labels = (max(seed - 1, 0) * n + np.arange(n)) % form.classes
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8), rng.permutation(labels)


def files(form):
    """(name without suffix, images, labels) of every file, the test file first."""
    for seed, stem in enumerate((form.test_stem, *form.train_stems)):
        yield stem, *examples(form, seed)


def write_binary(form, folder):
    folder.mkdir()
    for stem, images, labels in files(form):
        coarse = np.full((len(labels), form.label_bytes - 1), 99)
        records = np.concatenate([coarse, labels[:, None], images], axis=1).astype(np.uint8)
        (folder / f"{stem}.bin").write_bytes(records.tobytes())


def python2_text(text: bytes) -> bytes:
    """Opcodes of a str of Python 2 (BINSTRING)."""
    return b"T" + struct.pack("<I", len(text)) + text


def python2_batch(label_key, images, labels):
    """The stream that Python 2's cPickle wrote with protocol 2 for a batch: {'data': array, label_key:
    list}."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + python2_text(b"b") + b"tR("
        b"K\x01K" + bytes([len(images)]) + b"M" + struct.pack("<H", images.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n("
        + python2_text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + python2_text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89" + python2_text(images.tobytes()) + b"tb"
    )
    listed = b"](" + b"".join(b"K" + bytes([int(label)]) for label in labels) + b"e"
    return b"\x80\x02}(" + python2_text(b"data") + array + python2_text(label_key.encode()) + listed + b"u."


def python3_batch(label_key, images, labels):
    return pickle.dumps({"data": images, label_key: [int(label) for label in labels]}, protocol=2)


def write_python(form, folder, batch=python2_batch):
    folder.mkdir()
    for stem, images, labels in files(form):
        (folder / stem).write_bytes(batch(form.label_key, images, labels))


def check(form, raw):
    test_x, test_y = examples(form, 0)
    train = [examples(form, seed) for seed in range(1, len(form.train_stems) + 1)]
    np.testing.assert_array_equal(raw.test_x, test_x.reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(raw.test_y, test_y)
    np.testing.assert_array_equal(raw.train_x, np.concatenate([x for x, _ in train]).reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(raw.train_y, np.concatenate([y for _, y in train]))


@FORMS
def test_binary_version_from_its_folder_and_from_its_parent(form, tmp_path):
    write_binary(form, tmp_path / form.binary_folder)
    check(form, read_cifar(form, tmp_path / form.binary_folder))
    check(form, read_cifar(form, tmp_path))


@FORMS
@pytest.mark.parametrize("batch", [python2_batch, python3_batch])
def test_python_version_from_its_folder_and_from_its_parent(form, batch, tmp_path):
    write_python(form, tmp_path / form.python_folder, batch)
    check(form, read_cifar(form, tmp_path / form.python_folder))
    check(form, read_cifar(form, tmp_path))


def test_the_stream_made_here_is_what_pickle_itself_reads_as_a_batch():
    images, labels = examples(SMALL10, 1)
    content = pickle.loads(python2_batch("labels", images, labels), encoding="bytes")
    np.testing.assert_array_equal(content[b"data"], images)
    assert content[b"labels"] == list(labels)


def test_cifar_becomes_a_normalised_data_set(tmp_path):
    write_binary(SMALL10, tmp_path / SMALL10.binary_folder)
    data = cifar_data_set(SMALL10, tmp_path)
    assert data.train_x.shape == (30, 3, 32, 32)
    assert (data.name, data.classes, data.channels, data.plane) == ("cifar10", 10, 3, (32, 32))
    np.testing.assert_allclose(data.train_x.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(data.train_x.std(axis=(0, 2, 3)), 1, atol=1e-5)
    assert data.augmentation.padding == 4
    assert data.augmentation.flip
    np.testing.assert_array_equal(np.bincount(data.train_y), [3] * 10)


@FORMS
def test_a_replaced_file_is_named_and_a_copy_is_the_same(form, tmp_path):
    for name in ("first", "copy"):
        (tmp_path / name).mkdir()
        write_binary(form, tmp_path / name / form.binary_folder)
    first, copy = (cifar_data_set(form, tmp_path / name) for name in ("first", "copy"))
    assert first.digest() == ""
    before = DataFiles.of(first.files())
    assert not DataFiles.of(copy.files(), before).changes_since(before)
    name = f"{form.train_stems[-1]}.bin"
    path = tmp_path / "copy" / form.binary_folder / name
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    os.utime(path, (1, 1))
    assert DataFiles.of(copy.files(), before).changes_since(before) == Changes(changed=(name,))


def summed(form, folder, suffix):
    """`form` with the sums of the files in `folder`."""
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert all(name.endswith(suffix) for name in md5)
    return dataclasses.replace(form, md5=md5)


@FORMS
@pytest.mark.parametrize(("write", "suffix"), [(write_binary, ".bin"), (write_python, "")], ids=["binary", "python"])
def test_a_file_with_one_bit_turned_is_refused_by_its_sum(form, write, suffix, tmp_path):
    write(form, tmp_path / "d")
    form = summed(form, tmp_path / "d", suffix)
    check(form, read_cifar(form, tmp_path / "d"))

    path = tmp_path / "d" / f"{form.train_stems[-1]}{suffix}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = hashlib.md5(content).hexdigest()
    with pytest.raises(DataError, match=f"{path.name} has the MD5 sum {found} and not .* {form.md5[path.name]}: get"):
        read_cifar(form, tmp_path / "d")


@pytest.mark.parametrize(
    ("form", "write"), [(SMALL10, write_binary), (SMALL10, write_python), (SMALL100, write_python)]
)
def test_the_original_sums_are_asked_for(form, write, tmp_path):
    write(form, tmp_path / "d")
    with pytest.raises(DataError, match=r"has the MD5 sum [0-9a-f]{32} and not the original file's [0-9a-f]{32}: get"):
        load_data(form.name, tmp_path / "d")


def test_every_file_but_those_of_binary_cifar100_has_a_sum():
    for form, suffixes in ((CIFAR10, ("", ".bin")), (CIFAR100, ("",))):
        stems = (*form.train_stems, form.test_stem)
        assert set(form.md5) == {f"{stem}{suffix}" for stem in stems for suffix in suffixes}
        assert all(len(bytes.fromhex(md5)) == 16 for md5 in form.md5.values())
        assert len(set(form.md5.values())) == len(form.md5)


def test_the_real_sizes_are_asked_for(tmp_path):
    write_binary(SMALL100, tmp_path / "d")
    with pytest.raises(DataError, match="holds 200 images of 3072 bytes and 200 labels, expected 50000 of 3072"):
        load_data("cifar100", tmp_path / "d")


@pytest.mark.parametrize(("stem", "part"), [("test", "test"), ("train", "training")])
def test_a_class_with_too_many_images_is_refused(stem, part, tmp_path):
    write_binary(SMALL100, tmp_path / "d")
    path = tmp_path / "d" / f"{stem}.bin"
    content = bytearray(path.read_bytes())
    content[1] = (content[1] + 1) % 100
    path.write_bytes(content)
    n = len(content) // 3074 // 100
    with pytest.raises(DataError, match=f"the {part} files of .*/d have {n - 1} to {n + 1} .* have {n} of each: get"):
        read_cifar(SMALL100, tmp_path / "d")


def test_a_missing_file_is_named(tmp_path):
    write_binary(SMALL10, tmp_path / "d")
    (tmp_path / "d" / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin is missing: unpack the archive of cifar10 again"):
        read_cifar(SMALL10, tmp_path / "d")


def test_a_cut_file_is_refused(tmp_path):
    write_binary(SMALL10, tmp_path / "d")
    path = tmp_path / "d" / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="18437 bytes, which is no multiple of a cifar10 record's 3073"):
        read_cifar(SMALL10, tmp_path / "d")


def test_a_label_out_of_range_is_refused(tmp_path):
    write_binary(SMALL10, tmp_path / "d")
    path = tmp_path / "d" / "test_batch.bin"
    path.write_bytes(b"\x0b" + path.read_bytes()[1:])
    with pytest.raises(DataError, match=r"labels from \d to 11, expected 0 to 9"):
        read_cifar(SMALL10, tmp_path / "d")


def test_packed_archives_are_to_be_unpacked(tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"")
    for root in (archive, tmp_path):
        with pytest.raises(DataError, match="packed archive: unpack it first"):
            load_data("cifar10", root)


def test_wrong_places_are_named(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        load_data("cifar10", tmp_path / "none")
    with pytest.raises(DataError, match="holds neither cifar-100-binary nor cifar-100-python"):
        load_data("cifar100", tmp_path)
    with pytest.raises(DataError, match="cifar10 is read from a folder"):
        load_data("cifar10")
    with pytest.raises(DataError, match="are 32x32, 28x28 was asked for"):
        load_data("cifar10", tmp_path, size=28)


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, r"posix\.system"),
        (builtins.eval, r"(__builtin__|builtins)\.eval"),
        (builtins.getattr, r"(__builtin__|builtins)\.getattr"),
        (np.load, r"numpy(\.[a-z_.]+)?\.load"),
        (np.dtype, None),
    ],
)
def test_a_pickle_that_calls_anything_else_is_refused(function, name, tmp_path):
    write_python(SMALL10, tmp_path / "d")
    mark = tmp_path / "mark"
    hostile = pickle.dumps({"data": Call(function, f"touch {mark}")}, protocol=2)
    (tmp_path / "d" / "data_batch_1").write_bytes(hostile)
    sentence = rf"asks for ({name}), which no CIFAR batch contains: the file is refused" if name else "array of type"
    with pytest.raises(DataError, match=sentence):
        read_cifar(SMALL10, tmp_path / "d")
    assert not mark.exists()


def damaged(content) -> bytes:
    return pickle.dumps(content, protocol=2)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a CIFAR batch"),
        (b"no pickle at all", "is not a CIFAR batch"),
        (python2_batch("labels", *examples(SMALL10, 1))[:500], "is not a CIFAR batch"),
        (damaged([1, 2]), "holds a list and no CIFAR batch"),
        (damaged({"labels": [1]}), "has no images under 'data'"),
        (damaged({"data": np.zeros((6, 3072), np.float32)}), "array of type 'f4'"),
        (damaged({"data": np.array([[None]], dtype=object)}), "array of type 'O8'"),
        (
            damaged({"data": np.zeros((6, 3072), np.uint8), "fine_labels": [0] * 6}),
            "under 'labels': is it a batch",
        ),
        (damaged({"data": np.zeros((6, 3072), np.uint8), "labels": [2**70] * 6}), "beyond 64 bits"),
        (
            damaged({"data": np.zeros((6, 3072), np.uint8), "labels": [0] * 5}),
            "6 images of 3072 bytes and 5 labels",
        ),
        (damaged({"data": np.zeros((6, 3071), np.uint8), "labels": [0] * 6}), "6 images of 3071 bytes"),
        # A state for the function that makes bytes, and an encoding that is none of theirs.
        (b"\x80\x02c_codecs\nencode\n}b.", "is not a CIFAR batch"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.", "encoding 'zlib'"),
    ],
)
def test_damaged_python_batches_are_refused(content, sentence, tmp_path):
    write_python(SMALL10, tmp_path / "d")
    (tmp_path / "d" / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        read_cifar(SMALL10, tmp_path / "d")
