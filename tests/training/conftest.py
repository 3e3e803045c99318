"""A data set and a network small enough that a whole run takes well under a second."""

import numpy as np
import pytest
import torch
from torch import nn

from mest_compiler.sparsity.schemes import get_scheme
from mest_compiler.training.augment import Augmentation
from mest_compiler.training.data import DataSet
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.torch_engine import TorchEngine

CLASSES = 3
SPARSITY = {"unstructured": 0.5, "block": 0.5, "pattern": 7 / 9, "channel": 0.5, "filter": 0.5}


@pytest.fixture
def data() -> DataSet:
    """Noisy 9x8 images whose class is the row that is bright, give or take one row."""
    rng = np.random.default_rng(0)

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, CLASSES, size=n)
        x = rng.normal(size=(n, 1, 9, 8)).astype(np.float32)
        x[np.arange(n), 0, 3 * y + 1] += 2.0
        return x, y

    train_x, train_y = part(100)
    test_x, test_y = part(40)
    return DataSet(
        name="rows",
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        classes=CLASSES,
        channels=1,
        plane=(9, 8),
        black=np.zeros(1, np.float32),
        augmentation=Augmentation(padding=1, flip=True),
    )


@pytest.fixture
def recipe() -> Recipe:
    """Three epochs of six steps; four examples of every epoch are left out."""
    return Recipe(model="tiny", data="rows", epochs=3, batch=16, lr=0.1, seed=3)


@pytest.fixture
def new_engine():
    """A function that makes the same masked engine anew at every call; its one sparse layer is 3.weight."""

    def make(scheme: str = "unstructured", dropout: float = 0.0, mask: np.ndarray | None = None, **options):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=2, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(96, CLASSES),
            nn.Dropout(dropout),
        )
        if mask is None:
            mask = get_scheme(scheme).random_mask((8, 4, 3, 3), SPARSITY[scheme], np.random.default_rng(2))
        return TorchEngine(model, {"3.weight": mask}, {"3.weight": scheme}, **options)

    return make
