"""Runs that one process begins and another goes on with: `python continuing.py FOLDER SEED KIND...` is the other one.

It finds `stopped` (a run that was interrupted), `artifact` (the step it was begun with) and `trained` (that step with
the weights and masks of then) in FOLDER/KIND, and leaves an .npz of each way to go on. It must import nothing of the
tests by a relative name.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml

from mest_compiler.cli.training_engines import torch_engine
from mest_compiler.cli.training_start import first_start, start_of_checkpoint
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.training.augment import Augmentation
from mest_compiler.training.data import DataSet
from mest_compiler.training.loop import train
from mest_compiler.training.progress import QuietReporter, Reporter
from mest_compiler.training.ranks import SingleProcess
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.torch_engine import TorchEngine

MODEL = f"{Path(__file__).with_name('stacked.py')}:network"
PROFILE = {
    "scheme": "unstructured", "sparsity": 0.6, "layers": {"12.weight": "dense"},
    "kinds": {"linear": {"scheme": "unstructured", "sparsity": 0.5}},
}  # fmt: skip
EPOCHS, STOP = 6, 3
CLASSES, SHAPE = 3, (1, 6, 6)
TORCH = "torch"
WAYS = ("resumed", "resumed from the trained artifact", "from the trained artifact alone")


def recipe(seed: int, folder: Path) -> Recipe:
    """Six epochs of two steps with EM after each but the last. folder: gets the profile."""
    profile = folder / "profile.yaml"
    profile.write_text(yaml.safe_dump(PROFILE))
    return Recipe(
        model=MODEL, data="rows", epochs=EPOCHS, batch=8, lr=0.1, seed=seed, profile=str(profile), method="em", p=0.2,
        mutate_every=1, mutate_until=EPOCHS - 1,
    )  # fmt: skip


def data() -> DataSet:
    """16 + 8 noisy images whose class is a bright row."""
    rng = np.random.default_rng(0)

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, CLASSES, size=n)
        x = rng.normal(size=(n, *SHAPE)).astype(np.float32)
        x[np.arange(n), 0, 2 * y] += 1.5
        return x, y

    return DataSet(
        "rows", *part(16), *part(8), classes=CLASSES, channels=1, plane=SHAPE[1:], black=np.zeros(1, np.float32),
        augmentation=Augmentation(1, True),
    )  # fmt: skip


def begun(kind: str, run: Recipe, artifact: Artifact | None) -> Trainer | TorchEngine:
    """An engine before a run's first step. artifact: of the compiled ones."""
    if kind != TORCH:
        return Trainer(artifact, seed=run.seed)
    return torch_engine(run, first_start(run, data()), "cpu", 1, SingleProcess()).engine


def go_on(engine: Trainer | TorchEngine, run: Recipe, folder: Path, reporter: Reporter | None = None) -> None:
    """Train from a run's checkpoint in `folder`, or begin one where there is none."""
    resume = (folder / "checkpoint.safetensors").exists()
    train(engine, data(), run, folder, resume=resume, reporter=reporter or QuietReporter())


def bits(engine: Trainer | TorchEngine) -> dict[str, np.ndarray]:
    """All that a run ends with."""
    parts = {"state": engine.state(), "momentum": engine.slots()["momentum"], "masks": engine.masks()}
    return {f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def alone(run: Recipe) -> Recipe:
    """What a run trains that knows nothing of the one before it but its artifact."""
    return replace(run, epochs=EPOCHS - STOP, mutate_until=EPOCHS - STOP - 1)


def main(folder: Path, seed: int, kind: str) -> None:
    """Go on in each way that this engine has."""
    run = recipe(seed, folder)
    for way in WAYS if kind != TORCH else WAYS[:1]:
        place = folder / way
        if way != WAYS[2]:
            shutil.copytree(folder / "stopped", place)
        if kind == TORCH:
            start = start_of_checkpoint(run, data(), place / "checkpoint.safetensors")
            engine = torch_engine(run, start, "cpu", 1, SingleProcess()).engine
        else:
            engine = Trainer(Artifact.load(folder / ("artifact" if way == WAYS[0] else "trained")), seed=seed)
        go_on(engine, run if way != WAYS[2] else alone(run), place)
        np.savez(folder / f"{way}.npz", **bits(engine))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[3:]:
        main(Path(sys.argv[1], name), int(sys.argv[2]), name)
