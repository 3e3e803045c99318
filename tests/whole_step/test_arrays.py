"""The epoch loop on arrays: two inputs, a frozen branch, AdamW, MSE and mutation, against PyTorch in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mest_compiler.errors import MestError
from mest_compiler.losses import Mse
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.training.data_arrays import ArrayData
from mest_compiler.training.loop import evaluate, train
from mest_compiler.training.progress import QuietReporter
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.torch_engine import TorchEngine

from .test_losses import BATCH, CASES, CLASSES, INPUTS, LR, RULE, artifact, network
from .training import check_equal

RECIPE = Recipe(
    model="two", data="arrays", epochs=4, batch=BATCH, optimizer="adamw", lr=LR, loss="mse", scheme="block",
    sparsity=0.5, method="em", p=0.1, mutate_every=1, mutate_until=3,
)  # fmt: skip


def part(count: int, seed: int) -> dict[str, np.ndarray]:
    """Examples whose targets a network can learn."""
    rng = np.random.default_rng(seed)
    found = {name: rng.standard_normal((count, *shape)) for name, shape in INPUTS.items()}
    return {**found, "y": found["image"].mean((2, 3))[:, :1] + found["more"][:, :CLASSES]}


DATA = ArrayData(part(30, 0), part(13, 1))


def pytorch(trainer: Trainer) -> TorchEngine:
    """With the masks that the trainer has."""
    schemes = {name: scheme.name for name, (scheme, _) in trainer.sparse_layers().items()}
    return TorchEngine(network(False), trainer.masks(), schemes, optimizer=RULE, loss=Mse(), dtype=torch.float64)


def test_both_engines_train_the_same(tmp_path: Path) -> None:
    compiled = Trainer(artifact(CASES["mse"]))
    frozen = compiled.state()["branch.0.weight"]
    engines = {"compiled": compiled, "torch": pytorch(compiled)}
    runs = {
        name: train(engine, DATA, RECIPE, tmp_path / name, resume=False, reporter=QuietReporter()).records
        for name, engine in engines.items()
    }
    for one, other in zip(*runs.values(), strict=True):
        assert (one.metric, one.kept, one.removed, one.grown) == ("error", other.kept, other.removed, other.grown)
        for name in ("loss", "train_score", "test_score"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-10)
        assert one.train_score == pytest.approx(one.loss, rel=1e-12)  # which is what the loss is the mean of
    assert [one.grown > 0 for one in runs["torch"]] == [True, True, False, False]
    assert runs["torch"][-1].loss < runs["torch"][0].loss
    check_equal("state", compiled.state(), engines["torch"].state(), 1e-10)
    np.testing.assert_array_equal(compiled.state()["branch.0.weight"], frozen)
    every = np.arange(DATA.test_count)
    outputs = compiled.predict(DATA.test_inputs(every))
    assert evaluate(compiled, DATA) == pytest.approx(((outputs - DATA.test["y"]) ** 2).mean(), rel=1e-12)


def test_a_loss_that_the_recipe_does_not_name(tmp_path: Path) -> None:
    with pytest.raises(MestError, match="the recipe has loss mse and the network is trained with cross_entropy"):
        train(TorchEngine(network(False)), DATA, RECIPE, tmp_path, resume=False, reporter=QuietReporter())
    silent = Trainer(artifact(CASES["callable mean"]))
    with pytest.raises(MestError, match="a function of one's own, which it does not hold: give it to Trainer"):
        train(silent, DATA, RECIPE, tmp_path, resume=False, reporter=QuietReporter())
    own = Trainer(artifact(CASES["callable mean"]), loss=CASES["callable mean"].loss)
    with pytest.raises(MestError, match=r"test error became nan after epoch 1, .* give a loss of your own its `error`"):
        train(own, DATA, RECIPE, tmp_path, resume=False, reporter=QuietReporter())
