"""What a reader of files hands over: images and labels as stored, before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class RawData:
    """Images uint8 [N, C, H, W] and labels (any integer type) [N] of the training and the test part.

    files: those that they were read from, by their names.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    files: Mapping[str, Path] = field(default_factory=dict)
