"""Steps of every sparsity scheme, and of every way to find a layer's weights, agree with PyTorch's masked training."""

from __future__ import annotations

import pytest

from mest_compiler.optimizers import Sgd
from mest_compiler.runtime.trainer import Trainer

from .cases import Case, compiled
from .training import MaskedTraining, check_steps

NESTEROV = Sgd(0.9, 5e-4, True)
CASES = [
    Case("pre-activation", "block:8x1", batch=5),
    Case("pre-activation", "block:1x4", batch=5, rule=NESTEROV),
    Case("pre-activation", "channel", batch=5),
    Case("pre-activation", "filter", batch=5, first="sparse"),
    # stride 2 among them; the 1x1 projections stay dense
    pytest.param(Case("resnet20", "pattern"), marks=pytest.mark.slow),
    pytest.param(Case("odd convolutions", "block:1x4", batch=5), marks=pytest.mark.slow),
    pytest.param(Case("odd convolutions", "block:4x4", rule=NESTEROV), marks=pytest.mark.slow),
    pytest.param(Case("odd convolutions", "channel", batch=5), marks=pytest.mark.slow),
    pytest.param(Case("odd convolutions", "filter", batch=3), marks=pytest.mark.slow),
    pytest.param(Case("odd normalisations", "pattern", batch=5), marks=pytest.mark.slow),
]
PREFERRED = [
    Case("pre-activation", "unstructured", batch=5, family="taps"),
    pytest.param(Case("odd normalisations", "unstructured", family="taps"), marks=pytest.mark.slow),
    Case("large stem", "unstructured", batch=5, family="zeros"),
    pytest.param(Case("odd convolutions", "unstructured", family="zeros"), marks=pytest.mark.slow),
    Case("pre-activation", "pattern", family="zeros"),
    pytest.param(Case("pre-activation", "channel", family="zeros"), marks=pytest.mark.slow),
    pytest.param(Case("pre-activation", "block:4x4", family="zeros"), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("case", [*CASES, *PREFERRED], ids=str)
def test_three_steps(case: Case) -> None:
    built = compiled(case)
    trainer = Trainer(built.artifact)
    check_steps(trainer, MaskedTraining(built.model, trainer.masks(), case.rule), case.rule, case.shape)


@pytest.mark.parametrize("case", PREFERRED, ids=str)
def test_the_kernels_are_those_that_were_asked_for(case: Case) -> None:
    layers = compiled(case).artifact.manifest["layers"].values()
    kernels = [kernel for layer in layers if "capacity" in layer for kernel in layer["kernels"].values()]
    assert case.family in {kernel["indexing"] for kernel in kernels}
