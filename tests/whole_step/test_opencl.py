"""Training on this machine's OpenCL device agrees with PyTorch's masked training: every number there is, in float64."""

from __future__ import annotations

import pytest

from mest_compiler.optimizers import Sgd
from mest_compiler.runtime.trainer import Trainer

from .cases import Case, compiled
from .training import MaskedTraining, check_steps

CASES = [
    Case("pre-activation", "unstructured", batch=5, device="opencl"),
    Case("odd convolutions", "block", batch=5, rule=Sgd(0.9, 5e-4, True), device="opencl"),
]
SLOW = [
    Case("resnet20", "block", batch=5, device="opencl"),
    Case("resnet20", "pattern", device="opencl"),
    Case("odd convolutions", "unstructured", batch=5, rule=Sgd(0.9, 5e-4, True), device="opencl"),
    Case("odd normalisations", "unstructured", batch=7, first="sparse", rule=Sgd(0.0, 1e-3, False), device="opencl"),
    Case("odd activations", "block", batch=3, device="opencl"),
    Case("resnet20", "unstructured", device="opencl"),
    Case("resnet20", "channel", device="opencl"),
    Case("resnet20", "filter", device="opencl"),
    Case("resnet20", None, device="opencl"),
    Case("vgg19_bn", "block", batch=65, device="opencl"),
    Case("odd convolutions", None, batch=1, device="opencl"),
    Case("many normalisations", "unstructured", device="opencl"),
    Case("pre-activation", "block:1x4", device="opencl"),
]
DEEP = [Case("mobilenet_v2_cifar", "block", device="opencl"), Case("resnet50_cifar", "block", device="opencl")]
"""So many layers multiply differences in rounding by a hundred from step to step: two steps are compared."""


def check(case: Case, steps: int = 3) -> None:
    """Compiles a step and trains both ways."""
    built = compiled(case)
    trainer = Trainer(built.artifact)
    check_steps(trainer, MaskedTraining(built.model, trainer.masks(), case.rule), case.rule, case.shape, steps)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_three_steps(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=str)
def test_three_steps_of_more_networks(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", DEEP, ids=str)
def test_two_steps_of_deep_networks(case: Case) -> None:
    check(case, 2)
