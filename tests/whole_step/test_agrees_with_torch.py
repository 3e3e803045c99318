"""Compiled training in float64 agrees with PyTorch's masked training: every number there is, for three steps."""

import pytest

from mest_compiler.optimizers import Sgd
from mest_compiler.runtime.trainer import Trainer

from .cases import Case, compiled
from .training import MaskedTraining, check_steps

CASES = [
    pytest.param(Case("resnet20", "unstructured"), marks=pytest.mark.slow),
    pytest.param(Case("resnet20", "block", batch=5), marks=pytest.mark.slow),
    Case("large stem", "block", batch=5, rule=Sgd(0.9, 0.0, False)),
    pytest.param(Case("vgg19_bn", "unstructured", batch=6, rule=Sgd(0.9, 0.0, True)), marks=pytest.mark.slow),
    pytest.param(Case("vgg19_bn", "block"), marks=pytest.mark.slow),
    Case("odd convolutions", "unstructured", batch=5, rule=Sgd(0.9, 5e-4, True)),
    pytest.param(Case("odd convolutions", "block", rule=Sgd(0.9, 0.0, False)), marks=pytest.mark.slow),
    pytest.param(Case("odd convolutions", None, batch=1), marks=pytest.mark.slow),
    Case("odd normalisations", "unstructured"),
    pytest.param(
        Case("odd normalisations", "unstructured", batch=7, first="sparse", rule=Sgd(0.0, 1e-3, False)),
        marks=pytest.mark.slow,
    ),
    Case("odd normalisations", "pattern", batch=7, first="sparse", rule=Sgd(0.0, 1e-3, False)),
    Case("odd normalisations", "block"),
    Case("pre-activation", "block", batch=5, first="sparse"),
    pytest.param(Case("pre-activation", "unstructured", threads=1), marks=pytest.mark.slow),
    Case("odd activations", "unstructured", batch=5),
    pytest.param(Case("odd activations", "block", batch=4), marks=pytest.mark.slow),
    Case("odd poolings", "unstructured", batch=5),
]


def check(case: Case) -> None:
    """Compiles a step and trains both ways."""
    built = compiled(case)
    trainer = Trainer(built.artifact)
    check_steps(trainer, MaskedTraining(built.model, trainer.masks(), case.rule), case.rule, case.shape)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_three_steps(case: Case) -> None:
    check(case)


def test_a_quotient_on_a_batch_that_fills_no_tile() -> None:
    check(Case("quotient", None, batch=3))


def test_a_network_that_is_another_in_evaluation() -> None:
    check(Case("other in evaluation", None))


@pytest.mark.slow  # test_sums has it with sums too
def test_three_steps_as_users_compile_them() -> None:
    check(Case("pre-activation", "block", optimised=True))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["unstructured", "block"])
@pytest.mark.parametrize("network", ["resnet20", "vgg19_bn", "odd convolutions", "odd normalisations"])
def test_every_network_as_users_compile_it(network: str, scheme: str) -> None:
    check(Case(network, scheme, batch=6, optimised=True))
