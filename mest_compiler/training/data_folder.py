"""Image folders in ImageNet's layout: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg, decoded when they are needed."""

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from mest_compiler.errors import DataError
from mest_compiler.training.examples import LabelledImages
from mest_compiler.training.pixels import rgb_of
from mest_compiler.training.resized_crop import ResizedCrops

DEFAULT_SIZE = 224
# Tests see the middle of an image whose short side is this much longer, as published ImageNet results do.
TEST_MARGIN = 256 / 224
# Of ImageNet's training images, red, green and blue, in 0..1; in use for most image folders.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

TRAIN_PART = "train"
# The first that is there: ImageNet's own "test" has no labels.
TEST_PARTS = ("val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")

View = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class FolderData(LabelledImages):
    """A data set whose images stay on disk, as `Examples` wants it.

    train_files, test_files: paths below `root`; train_y, test_y: int64 [N], places of their classes in `class_names`.
    Images become red, green and blue planes of plane = (size, size), normalised by ImageNet's mean and deviation.
    DataError, naming the file, when one cannot be decoded.
    """

    name: str
    root: Path
    class_names: tuple[str, ...]
    train_files: tuple[str, ...]
    train_y: np.ndarray
    test_files: tuple[str, ...]
    test_y: np.ndarray
    size: int
    channels: int = 3

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.class_names)

    @property
    def plane(self) -> tuple[int, int]:
        """(H, W)."""
        return self.size, self.size

    def train_images(self, ids: np.ndarray, rng: np.random.Generator | None, share: slice) -> np.ndarray:
        """float32 [len(ids[share]), 3, H, W]: a share of the training images `ids`.

        Each is a random crop, scaled and perhaps mirrored, see `ResizedCrops`, that `rng` draws for all of them; None
        gives what a test image gives.
        """
        files = [self.train_files[i] for i in ids[share]]
        if rng is None:
            return self._decoded(files, [self._middle] * len(files))
        crops = ResizedCrops.draw(len(ids), rng).of(share)
        return self._decoded(files, [self._crop(crops, i) for i in range(len(files))])

    def test_images(self, ids: np.ndarray) -> np.ndarray:
        """float32 [len(ids), 3, H, W]: the middles of test images."""
        return self._decoded([self.test_files[i] for i in ids], [self._middle] * len(ids))

    def with_training(self, ids: np.ndarray) -> "FolderData":
        """The same data with the training images `ids` (int64, ascending) only."""
        return replace(self, train_files=tuple(self.train_files[i] for i in ids), train_y=self.train_y[ids])

    def fingerprint(self) -> str:
        """A short digest of names and first files' sizes, to recognise the data when a run is resumed."""
        sizes = [(self.root / file).stat().st_size for file in (*self.train_files[:64], *self.test_files[:64])]
        digest = hashlib.sha256(f"{self.name} {self.size} {sizes}".encode())
        for names in (self.class_names, self.train_files, self.test_files):
            digest.update("\0".join(names).encode("utf-8", "surrogateescape") + b"\0\0")
        return digest.hexdigest()[:16]

    def digest(self) -> str:
        """The files say it."""
        return ""

    def files(self) -> Mapping[str, Path]:
        """All training and test images."""
        return {file: self.root / file for file in (*self.train_files, *self.test_files)}

    def _decoded(self, files: list[str], views: list[View]) -> np.ndarray:
        x = np.empty((len(files), *self.input_shape), np.float32)

        def decode(i: int) -> None:
            path = self.root / files[i]
            try:
                with Image.open(path) as image:
                    pixels = np.asarray(views[i](rgb_of(image, path)))
            except DataError:
                raise
            except Exception as error:  # Pillow's decoders raise many kinds for damaged files.
                raise DataError(
                    f"{path} cannot be decoded ({error}): put the original file in its place or remove it"
                ) from error
            np.divide(pixels.transpose(2, 0, 1), 255, out=x[i], dtype=np.float32)
            x[i] -= MEAN[:, None, None]
            x[i] /= DEVIATION[:, None, None]

        # Threads, because Pillow and NumPy let others run while they work.
        pool = ThreadPoolExecutor(thread_name_prefix="mest-images")
        try:
            for _ in pool.map(decode, range(len(files))):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
        return x

    def _crop(self, crops: ResizedCrops, i: int) -> View:
        def view(image: Image.Image) -> Image.Image:
            cut = image.crop(crops.box(i, *image.size)).resize(self.plane, Image.Resampling.BILINEAR)
            return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crops.mirrored[i] else cut

        return view

    def _middle(self, image: Image.Image) -> Image.Image:
        """The middle of the image with its short side scaled to size * TEST_MARGIN, in one step."""
        width, height = image.size
        half = min(width, height) / TEST_MARGIN / 2
        box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
        return image.resize(self.plane, Image.Resampling.BILINEAR, box=box)


def read_folder(name: str, root: Path | str | None, size: int | None = None) -> FolderData:
    """List the images below `root`; their classes are the sorted names of the folders in each part.

    size: height and width the images are brought to, 224 by default. DataError when there is no such folder, a part is
    missing, the parts' classes differ, or a class or a file is empty.
    """
    if root is None:
        raise DataError(f"data set {name} is read from a folder: say which one holds train and val")
    root = Path(root)
    size = DEFAULT_SIZE if size is None else size
    if size < 1:
        raise DataError(f"the images of data set {name} cannot be {size} pixels wide: choose a size of at least 1")
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: say which one holds the train and val of data set {name}")
    test_part = next((part for part in TEST_PARTS if (root / part).is_dir()), None)
    if test_part is None or not (root / TRAIN_PART).is_dir():
        raise DataError(
            f"{root} holds no folder {' or '.join(TEST_PARTS) if test_part is None else TRAIN_PART}: "
            "put the images in train/CLASS and val/CLASS below it"
        )
    class_names = _class_names(root, test_part)
    train_files, train_y = _files(root, TRAIN_PART, class_names)
    test_files, test_y = _files(root, test_part, class_names)
    return FolderData(name, root, class_names, train_files, train_y, test_files, test_y, size)


def _class_names(root: Path, test_part: str) -> tuple[str, ...]:
    ours, theirs = (
        {entry.name for entry in _visible(root / part) if entry.is_dir()} for part in (TRAIN_PART, test_part)
    )
    for part, names in ((TRAIN_PART, ours), (test_part, theirs)):
        if not names:
            raise DataError(f"{root / part} holds no folders: put the images of each class in a folder of its own")
    alone = sorted(ours ^ theirs)
    if alone:
        there, missing = (TRAIN_PART, test_part) if alone[0] in ours else (test_part, TRAIN_PART)
        raise DataError(
            f"class {alone[0]} of {root} is in {there} and not in {missing}: add its images there or remove it"
        )
    return tuple(sorted(ours))


def _files(root: Path, part: str, class_names: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """Paths below `root`, by class and name, and labels int64 [N] of one part's images."""
    files: list[str] = []
    counts = []
    for class_name in class_names:
        folder = root / part / class_name
        images = [entry for entry in _visible(folder) if entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()]
        if not images:
            raise DataError(
                f"{folder} holds no images ({', '.join(SUFFIXES)}): add some or remove the class from both parts"
            )
        for entry in images:
            _check_some_bytes(entry)
        files += [f"{part}/{class_name}/{entry.name}" for entry in images]
        counts.append(len(images))
    return tuple(files), np.repeat(np.arange(len(class_names), dtype=np.int64), counts)


def _check_some_bytes(entry: os.DirEntry[str]) -> None:
    try:
        size = entry.stat().st_size
    except OSError as error:  # A link to nothing, for one.
        raise DataError(f"{entry.path} cannot be read ({error.strerror}): correct or remove it") from None
    if size == 0:
        raise DataError(f"{entry.path} is empty: put the original file in its place or remove it")


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """Entries by name, but those that systems and tools hide there beside one's own."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read ({error.strerror}): make it readable") from None
