"""What the loop asks of a data set, and what all labelled images answer alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from mest_compiler.losses.base import INPUT, LABEL, TARGET
from mest_compiler.signature import TensorSpec


class Examples(Protocol):
    """A training and a test part, wherever their examples are.

    inputs, targets: an example's shape and dtype by name, as the model's forward and the loss call them. sizes: what a
    builder of models is told, of "classes" and "in_channels" those that are known. classes: that all labels are of;
    None: it is not known, or the targets are no labels. labels: int64 [train_count], of the training part; None: the
    targets are no labels.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    targets: Mapping[str, TensorSpec]
    sizes: Mapping[str, int]
    classes: int | None
    labels: np.ndarray | None
    train_count: int
    test_count: int

    def train_inputs(self, ids: np.ndarray, rng: np.random.Generator | None, share: slice) -> dict[str, np.ndarray]:
        """[len(ids[share]), ...] by name: a share of the training examples `ids`.

        Where examples can be augmented they are, as `rng` draws for all of `ids`, so the shares make up the whole;
        None: not at all.
        """
        ...

    def train_targets(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """[len(ids), ...] by name: of training examples."""
        ...

    def test_inputs(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """[len(ids), ...] by name: of test examples."""
        ...

    def test_targets(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """[len(ids), ...] by name: of test examples."""
        ...

    def fingerprint(self) -> str:
        """A short digest to recognise the data when a run is resumed, of some of the examples only."""
        ...

    def digest(self) -> str:
        """A digest of all examples, where they are in memory and of no files; elsewhere ""."""
        ...

    def files(self) -> Mapping[str, Path]:
        """The files that hold the examples, by their names below the data set's folder; see `data_files`."""
        ...

    def with_training(self, ids: np.ndarray) -> Examples:
        """The same data with the training examples `ids` (int64, ascending) only."""
        ...


class LabelledImages(ABC):
    """Examples of one image and its label.

    train_y, test_y: int64 [N] in 0..classes-1; plane: (H, W).
    """

    train_y: np.ndarray
    test_y: np.ndarray
    classes: int
    channels: int
    plane: tuple[int, int]

    @abstractmethod
    def train_images(self, ids: np.ndarray, rng: np.random.Generator | None, share: slice) -> np.ndarray:
        """float32 [len(ids[share]), C, H, W]: a share of the training images `ids`, normalised; see `Examples`."""

    @abstractmethod
    def test_images(self, ids: np.ndarray) -> np.ndarray:
        """float32 [len(ids), C, H, W]: test images, normalised."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image: (C, H, W)."""
        return (self.channels, *self.plane)

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """The image."""
        return {INPUT: TensorSpec(self.input_shape, "float32")}

    @property
    def targets(self) -> dict[str, TensorSpec]:
        """The label."""
        return {TARGET: LABEL}

    @property
    def sizes(self) -> dict[str, int]:
        """Both."""
        return {"classes": self.classes, "in_channels": self.channels}

    @property
    def labels(self) -> np.ndarray:
        """Of the training part."""
        return self.train_y

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train_y)

    @property
    def test_count(self) -> int:
        """Number of test images."""
        return len(self.test_y)

    def train_inputs(self, ids: np.ndarray, rng: np.random.Generator | None, share: slice) -> dict[str, np.ndarray]:
        """The images."""
        return {INPUT: self.train_images(ids, rng, share)}

    def train_targets(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """The labels."""
        return {TARGET: self.train_y[ids]}

    def test_inputs(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """The images."""
        return {INPUT: self.test_images(ids)}

    def test_targets(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """The labels."""
        return {TARGET: self.test_y[ids]}
