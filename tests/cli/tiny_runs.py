"""Real runs that take a second: net.py's network, trained on noise with a bright row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mest_compiler import models
from mest_compiler.sparsity.masks import random_masks
from mest_compiler.sparsity.profile import Profile
from mest_compiler.training import data as data_sets
from mest_compiler.training.data import DataSet
from mest_compiler.training.loop import train
from mest_compiler.training.progress import QuietReporter
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.torch_engine import TorchEngine

from .conftest import NETWORK

IMAGES, CLASSES = 96, 4
MUTATING = {"scheme": "block", "sparsity": 0.5, "method": "em", "p": 0.1, "mutate_every": 1, "mutate_until": 3}
"""Of four epochs, the first two are followed by a mutation."""


def rows(seed: int = 0) -> DataSet:
    """Grey 8x8 images whose class is the pair of rows that is bright."""
    rng = np.random.default_rng(seed)

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, CLASSES, size=n)
        x = rng.normal(size=(n, 1, 8, 8)).astype(np.float32)
        x[np.arange(n), 0, 2 * y] += 3.0
        return x, y

    (train_x, train_y), (test_x, test_y) = part(IMAGES), part(32)
    return DataSet("rows", train_x, train_y, test_x, test_y, CLASSES, 1, (8, 8), np.zeros(1, np.float32))


def write_images(root: Path, each: int = 35) -> None:
    """A folder of colour images of two classes; each: how many of a class are for training."""
    rng = np.random.default_rng(0)
    for part, n in (("train", each), ("val", 2)):
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.bmp")  # of one size


class Stops(QuietReporter):
    """A Ctrl-C after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step_finished(self, done: int, loss: float) -> None:
        """Count."""
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def make_run(folder: Path, monkeypatch: pytest.MonkeyPatch, *, stop: int | None = None, **fields: object) -> Path:
    """The folder of a run of four epochs of six steps; `stop`: after so many of them.

    Its data set is known by the name rows until the test ends.
    """
    monkeypatch.setitem(data_sets.LOADERS, "rows", lambda root, seed, size: rows())
    (folder / "net.py").write_text(NETWORK)
    given = {"model": f"{folder / 'net.py'}:make", "data": "rows", "epochs": 4, "batch": 16, "lr": 0.1, **fields}
    recipe = Recipe.from_mapping(given, "a test's recipe")
    data = rows()
    torch.manual_seed(recipe.seed)
    model = models.build(recipe.model, classes=data.classes, in_channels=1, width=recipe.width)
    masks, schemes = {}, {}
    if recipe.scheme is not None:
        modules = model.named_modules()
        shapes = {f"{n}.weight": tuple(m.weight.shape) for n, m in modules if isinstance(m, torch.nn.Conv2d)}
        plan = Profile.uniform(recipe.scheme, recipe.sparsity).assign(shapes)
        masks, schemes = random_masks(plan, shapes, recipe.seed), {name: one.scheme for name, one in plan.items()}
    engine = TorchEngine(model, masks, schemes)
    reporter = QuietReporter() if stop is None else Stops(stop)
    run_dir = folder / "run"
    try:
        train(engine, data, recipe, run_dir, resume=False, reporter=reporter, checkpoint_steps=1)
    except KeyboardInterrupt:
        if stop is None or reporter.left:  # it was not ours
            raise
    return run_dir
