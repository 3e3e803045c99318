"""Every family of models trains as PyTorch's masked training does, in float64, narrow and on small planes."""

from __future__ import annotations

import dataclasses

import pytest

from mest_compiler.optimizers import Sgd
from mest_compiler.runtime.trainer import Trainer

from . import cases
from .cases import Case, compiled
from .training import MaskedTraining, check_steps

FULL = Case("resnet50_cifar", "block")
GROUPED = Case("odd convolutions", "unstructured", batch=5, rule=Sgd(0.9, 5e-4, True))
MORE = [
    FULL, Case("resnet18", "block"), Case("resnet110", "block"), Case("resnet50", "unstructured"),
    Case("mobilenet_v2", "unstructured"), Case("mobilenet_v2_cifar", "unstructured", batch=5),
]  # fmt: skip
CASES = [
    Case("large stem", "block", batch=5, rule=Sgd(0.9, 0.0, False)),
    *(pytest.param(case, marks=pytest.mark.slow) for case in MORE),
]


def check(case: Case, steps: int) -> None:
    """Compiles a step and trains both ways."""
    built = compiled(case)
    trainer = Trainer(built.artifact)
    check_steps(trainer, MaskedTraining(built.model, trainer.masks(), case.rule), case.rule, case.shape, steps)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_steps(case: Case) -> None:
    check(case, 2)


@pytest.mark.parametrize("case", [GROUPED, *CASES], ids=str)
def test_grouped_convolutions_stay_dense(case: Case) -> None:
    layers = compiled(case).artifact.manifest["layers"]
    sparse = {name for name, layer in layers.items() if layer["scheme"] != "dense"}
    grouped = {f"{n}.weight" for n, m in compiled(case).model.named_modules() if getattr(m, "groups", 1) > 1}
    assert sparse and not sparse & grouped
    assert sparse | grouped >= set(list(layers)[1:])


@pytest.mark.slow
def test_a_resnet50_of_full_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cases.WIDTHS, "resnet50_cifar", 1)
    case = dataclasses.replace(FULL, seed=1)  # another one than above for the cache
    check(case, 1)
