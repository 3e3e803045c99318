"""A small network and data on which both engines run the same recipe, and what is watched while they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mest_compiler import Profile, Trainer, compile_step
from mest_compiler.devices import CpuProfile
from mest_compiler.losses import CrossEntropy
from mest_compiler.optimizers import Sgd
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.sparsity.mutation import Change
from mest_compiler.training.augment import Augmentation
from mest_compiler.training.data import DataSet
from mest_compiler.training.loop import train
from mest_compiler.training.progress import QuietReporter, Reporter
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.recipe_settings import OF_METHOD
from mest_compiler.training.records import Summary
from mest_compiler.training.torch_engine import TorchEngine

from .cases import unoptimised
from .traces import share_traces

TrainingEngine = Trainer | TorchEngine
CLASSES, SHAPE, BATCH, SMOOTHING = 3, (1, 9, 8), 16, 0.1
LINEAR = "10.weight"
# Nine epochs, mutations after epochs 2, 4 and 6 (p is halved at 4), the bound s again after 7; 30 images go after 5.
RECIPE = Recipe(
    model="tiny", data="rows", epochs=9, batch=BATCH, lr=0.1, seed=3, scheme="unstructured", sparsity=0.75,
    method="em", p=0.13, mutate_every=2, mutate_until=7, p_milestones=(4,), label_smoothing=SMOOTHING, de_epoch=5,
    de_remove=30,
)  # fmt: skip


def network(dropout: float = 0.0) -> nn.Module:
    """Three convolutions and two linear layers, the same at every call: [N, 1, 9, 8] -> logits [N, 3]."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 24), nn.ReLU(), nn.Dropout(dropout), nn.Linear(24, CLASSES),
    ).double()  # fmt: skip


def profile(scheme: str) -> Profile:
    """75 % of the second and third convolution under the scheme, and of the first linear layer single weights."""
    return Profile.from_mapping(
        {
            "scheme": scheme, "sparsity": RECIPE.sparsity, "layers": {"13.weight": "dense"},
            "kinds": {"linear": {"scheme": "unstructured", "sparsity": 0.5}},
        }
    )  # fmt: skip


@cache
def artifact(scheme: str, headroom: float, dropout: float = 0.0) -> Artifact:
    """Compiles the network once a session, without LLVM's optimiser; nobody may change what this returns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuProfile, "target", property(unoptimised))
        share_traces(patch, ("mutated", dropout))
        return compile_step(
            network(dropout), input_shape=SHAPE, batch=BATCH, profile=profile(scheme), seed=RECIPE.seed,
            headroom=headroom, optimizer=Sgd(0.9, 5e-4, False), dtype="float64", measure=False, threads=1,
            loss=CrossEntropy(SMOOTHING),
        )  # fmt: skip


def compiled_engine(scheme: str, headroom: float, dropout: float = 0.0) -> Trainer:
    """A fresh trainer."""
    return Trainer(artifact(scheme, headroom, dropout), seed=RECIPE.seed)


def torch_engine(scheme: str, headroom: float = 0.0, dropout: float = 0.0) -> TorchEngine:
    """A fresh reference with the same weights, masks and rule; whatever the headroom."""
    masks = compiled_engine(scheme, RECIPE.p).masks()
    schemes = {name: "unstructured" if name == LINEAR else scheme for name in masks}
    return TorchEngine(
        network(dropout), masks, schemes, dtype=torch.float64, seed=RECIPE.seed, loss=CrossEntropy(SMOOTHING)
    )


ENGINES = {"compiled": compiled_engine, "torch": torch_engine}


@cache
def data() -> DataSet:
    """100 + 40 noisy images whose class is the row that is bright."""
    rng = np.random.default_rng(0)

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, CLASSES, size=n)
        x = rng.normal(size=(n, *SHAPE)).astype(np.float32)
        x[np.arange(n), 0, 3 * y + 1] += 2
        return x, y

    return DataSet(
        "rows", *part(100), *part(40), classes=CLASSES, channels=1, plane=SHAPE[1:], black=np.zeros(1, np.float32),
        augmentation=Augmentation(1, True),
    )  # fmt: skip


def run(
    engine: TrainingEngine, recipe: Recipe, folder: Path, resume: bool = False, reporter: Reporter | None = None,
    checkpoint_steps: int | None = None,
) -> Summary:  # fmt: skip
    """The recipe with an engine."""
    options = {"resume": resume, "reporter": reporter or QuietReporter(), "checkpoint_steps": checkpoint_steps}
    return train(engine, data(), recipe, folder, **options)


def recipe_of(method: str, scheme: str) -> Recipe:
    """The recipe under a method and a scheme, with the usual settings of a method that is not MEST's."""
    others = dict.fromkeys(OF_METHOD) if method == "set" else {}
    return replace(RECIPE, method=method, scheme=scheme, **others)


class Watch:
    """Notes every mutation of an engine, and checks what it leaves in weights and momentum."""

    def __init__(self, engine: TrainingEngine) -> None:
        self.mutations: list[dict[str, list[int]]] = []
        self.most = {name: len(units) for name, units in engine.kept_units().items()}
        self.regrown = 0
        self._engine, self._mutate = engine, engine.mutate
        engine.mutate = self.mutate

    def mutate(self, changes: Mapping[str, Change]) -> None:
        """In place of the engine's."""
        old, before = self._engine.kept_units(), (self._engine.state(), self._engine.slots()["momentum"])
        self._mutate(changes)
        kept, after = self._engine.kept_units(), (self._engine.state(), self._engine.slots()["momentum"])
        for name, change in changes.items():
            scheme, shape = self._engine.sparse_layers()[name]
            np.testing.assert_array_equal(kept[name], change.kept)
            carried = scheme.weights_of(change.survivors, shape).reshape(-1)
            for now, then in zip(after, before, strict=True):
                wanted = np.zeros(now[name].size)
                wanted[carried] = then[name].reshape(-1)[carried]
                np.testing.assert_array_equal(now[name].reshape(-1), wanted)
            self.regrown += len(np.setdiff1d(np.intersect1d(old[name], change.kept), change.survivors))
            self.most[name] = max(self.most[name], len(change.kept))
        for now, then in zip(after, before, strict=True):
            for name in now.keys() - changes.keys():
                np.testing.assert_array_equal(now[name], then[name])
        self.mutations.append({name: units.tolist() for name, units in kept.items()})


def check_agree(one: TrainingEngine, other: TrainingEngine) -> None:
    """Fails unless both keep the same units and agree in parameters, statistics and momentum to 1e-8."""
    for name, units in one.kept_units().items():
        np.testing.assert_array_equal(other.kept_units()[name], units, err_msg=name)
    for ours, theirs in ((one.state(), other.state()), (one.slots()["momentum"], other.slots()["momentum"])):
        assert ours.keys() == theirs.keys()
        largest = max(np.abs(array).max() for array in theirs.values())
        for name, array in theirs.items():
            # what is zero up to rounding is measured against the largest number of all
            error = np.abs(ours[name] - array).max() / max(np.abs(array).max(), 1e-6 * largest)
            assert error <= 1e-8, f"{name}: relative error {error}"
