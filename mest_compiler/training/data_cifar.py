"""CIFAR-10 and CIFAR-100 from a user's folder, in both published forms: binary and Python (pickle)."""

from collections.abc import Callable
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
    test file.
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
)

Reader = Callable[[CifarForm, Path], tuple[np.ndarray, np.ndarray]]


def read_cifar(form: CifarForm, root: Path) -> RawData:
    """Read the data set of `form` from `root`: the unpacked archive's own folder or its parent.

    The binary version is taken when both are there. DataError when files are missing, of the wrong size, with
    labels out of range, or still packed.
    """
    folder, suffix, read = _locate(form, root)
    train = [_checked(form, folder / f"{stem}{suffix}", read, form.train_records) for stem in form.train_stems]
    test_x, test_y = _checked(form, folder / f"{form.test_stem}{suffix}", read, form.test_records)
    return RawData(np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train]), test_x, test_y)


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
    images, labels = read(form, path)
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


def _read_binary(form: CifarForm, path: Path) -> tuple[np.ndarray, np.ndarray]:
    record = form.label_bytes + form.image_bytes
    raw = np.fromfile(path, dtype=np.uint8)
    if raw.size % record:
        raise DataError(
            f"{path} has {raw.size} bytes, which is no multiple of a {form.name} record's {record}: "
            "get the original archive again"
        )
    raw = raw.reshape(-1, record)
    return raw[:, form.label_bytes :], raw[:, form.label_bytes - 1].astype(np.int64)


def _read_python(form: CifarForm, path: Path) -> tuple[np.ndarray, np.ndarray]:
    return read_batch(path, form.label_key)
