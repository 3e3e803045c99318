"""CIFAR-10 and CIFAR-100 from a user's folder, in both published forms: binary and Python (pickle).

What is checked: the MD5 sum of every file that has a known one, which is all but the binary version of CIFAR-100; of
every file its size and the range of its labels; of each part that it has equally many images of every class.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mest_compiler.errors import DataError
from mest_compiler.training.cifar_pickle import read_batch
from mest_compiler.training.raw_data import RawData


@dataclass(frozen=True)
class CifarForm:
    """How one of the two data sets is stored.

    label_bytes: label bytes before each image of the binary version, of which the last one is the class;
    label_key: the entry with the classes in the Python version; train_stems: names of the training files
    without the binary version's ".bin"; train_records: images in each of them; test_records: images in the
    test file; md5: sums (hexadecimal) of the original files by name; a file without one is not summed.
    """

    name: str
    classes: int
    label_bytes: int
    label_key: str
    train_stems: tuple[str, ...]
    test_stem: str
    binary_folder: str
    python_folder: str
    archive_prefix: str
    train_records: int
    test_records: int
    md5: Mapping[str, str]
    channels: int = 3
    plane: int = 32

    @property
    def image_bytes(self) -> int:
        """Bytes of one image: red, green and blue plane."""
        return self.channels * self.plane * self.plane


CIFAR10 = CifarForm(
    name="cifar10",
    classes=10,
    label_bytes=1,
    label_key="labels",
    train_stems=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test_stem="test_batch",
    binary_folder="cifar-10-batches-bin",
    python_folder="cifar-10-batches-py",
    archive_prefix="cifar-10-",
    train_records=10_000,
    test_records=10_000,
    md5={
        # As torchvision checks them.
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        # As both prabhuomkar/pytorch-cpp and rai-project/dldataset have them.
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
)
CIFAR100 = CifarForm(
    name="cifar100",
    classes=100,
    label_bytes=2,  # coarse, fine
    label_key="fine_labels",
    train_stems=("train",),
    test_stem="test",
    binary_folder="cifar-100-binary",
    python_folder="cifar-100-python",
    archive_prefix="cifar-100-",
    train_records=50_000,
    test_records=10_000,
    # As torchvision checks them. For the binary version no sums are known that two sources agree on.
    md5={"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
)

# Makes images uint8 [N, bytes] and labels int64 [N] of a file's content; the path is named in errors.
Reader = Callable[[CifarForm, Path, bytes], tuple[np.ndarray, np.ndarray]]


def read_cifar(form: CifarForm, root: Path) -> RawData:
    """Read the data set of `form` from `root`: the unpacked archive's own folder or its parent.

    The binary version is taken when both are there. DataError when files are missing, still packed, or not the
    original ones as far as that can be told (see above).
    """
    folder, suffix, read = _locate(form, root)
    train = [_checked(form, folder / f"{stem}{suffix}", read, form.train_records) for stem in form.train_stems]
    test_x, test_y = _checked(form, folder / f"{form.test_stem}{suffix}", read, form.test_records)
    train_y = np.concatenate([y for _, y in train])
    _check_balance(form, folder, "training", train_y)
    _check_balance(form, folder, "test", test_y)
    files = {f"{stem}{suffix}": folder / f"{stem}{suffix}" for stem in (*form.train_stems, form.test_stem)}
    return RawData(np.concatenate([x for x, _ in train]), train_y, test_x, test_y, files)


def _locate(form: CifarForm, root: Path) -> tuple[Path, str, Reader]:
    if root.name.endswith((".tar.gz", ".tgz")):
        raise DataError(f"{root} is a packed archive: unpack it first and name the folder it makes")
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: say where the unpacked archive of {form.name} is")
    for suffix, read, own_folder in (
        (".bin", _read_binary, form.binary_folder),
        ("", _read_python, form.python_folder),
    ):
        for folder in (root, root / own_folder):
            # Any one of its files marks the folder; the ones that are missing are then named when they are
            # read.
            if any((folder / f"{stem}{suffix}").is_file() for stem in (*form.train_stems, form.test_stem)):
                return folder, suffix, read
    packed = sorted(root.glob(f"{form.archive_prefix}*.tar.gz"))
    if packed:
        raise DataError(f"{packed[0]} is a packed archive: unpack it first")
    raise DataError(
        f"{root} holds neither {form.binary_folder} nor {form.python_folder} nor their files: "
        f"say where the unpacked archive of {form.name} is"
    )


def _checked(form: CifarForm, path: Path, read: Reader, records: int) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path} is missing: unpack the archive of {form.name} again")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): make it readable") from None
    if path.name in form.md5:
        # Against damage, not against malice, for which MD5 is too weak.
        found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
        if found != form.md5[path.name]:
            raise DataError(
                f"{path} has the MD5 sum {found} and not the original file's {form.md5[path.name]}: "
                f"get the original archive of {form.name} again"
            )
    images, labels = read(form, path, raw)
    if images.shape != (records, form.image_bytes) or labels.shape != (records,):
        raise DataError(
            f"{path} holds {images.shape[0]} images of {images.shape[1]} bytes and {labels.shape[0]} labels, "
            f"expected {records} of {form.image_bytes}: get the original archive again"
        )
    if records and not 0 <= labels.min() <= labels.max() < form.classes:
        raise DataError(
            f"{path} has labels from {labels.min()} to {labels.max()}, expected 0 to {form.classes - 1}: "
            "get the original archive again"
        )
    return images.reshape(records, form.channels, form.plane, form.plane), labels


def _check_balance(form: CifarForm, folder: Path, part: str, labels: np.ndarray) -> None:
    counts = np.bincount(labels, minlength=form.classes)
    if counts.min() != counts.max():
        raise DataError(
            f"the {part} files of {folder} have {counts.min()} to {counts.max()} images of a class, the original "
            f"ones have {len(labels) // form.classes} of each: get the original archive of {form.name} again"
        )


def _read_binary(form: CifarForm, path: Path, raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    record = form.label_bytes + form.image_bytes
    if len(raw) % record:
        raise DataError(
            f"{path} has {len(raw)} bytes, which is no multiple of a {form.name} record's {record}: "
            "get the original archive again"
        )
    records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, record)
    return records[:, form.label_bytes :], records[:, form.label_bytes - 1].astype(np.int64)


def _read_python(form: CifarForm, path: Path, raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    return read_batch(path, raw, form.label_key)
