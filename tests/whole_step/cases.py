"""The whole steps that are tested, each compiled once a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import tvm
from torch import nn

from mest_compiler import compile as compiler
from mest_compiler import models
from mest_compiler.devices import CpuProfile
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.optimizers import Sgd
from mest_compiler.passes.fit_memory import Fitted, Fitter
from mest_compiler.passes.options import PLAIN, StepOptions
from mest_compiler.passes.step_program import StepProgram
from mest_compiler.passes.tiling.plan import Pick
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.schedules.choice import Choice
from mest_compiler.sparsity.profile import LayerPlan, Profile

from .networks import (
    Dropout,
    LargeStem,
    ManyNormalisations,
    OddActivations,
    OddConvolutions,
    OddNormalisations,
    OddPoolings,
    OtherInEvaluation,
    PreActivation,
    Quotient,
    SharedNormalisation,
)
from .traces import share_traces
from .training import CLASSES

_OWN = {
    "odd convolutions": OddConvolutions, "odd normalisations": OddNormalisations, "pre-activation": PreActivation,
    "quotient": Quotient, "other in evaluation": OtherInEvaluation, "odd activations": OddActivations,
    "many normalisations": ManyNormalisations, "shared normalisation": SharedNormalisation,
    "odd poolings": OddPoolings, "dropout": Dropout, "large stem": LargeStem,
}  # fmt: skip
SHAPES = {
    "resnet20": (3, 8, 8), "vgg19_bn": (3, 16, 16), "odd convolutions": (3, 9, 7), "odd normalisations": (3, 6, 6),
    "pre-activation": (3, 5, 5), "quotient": (3, 5, 5), "other in evaluation": (3, 5, 5),
    "odd activations": (3, 9, 7), "resnet110": (3, 8, 8), "resnet18": (3, 33, 33), "resnet50": (3, 33, 33),
    "resnet50_cifar": (3, 12, 12), "mobilenet_v2": (3, 33, 33), "mobilenet_v2_cifar": (3, 16, 16),
    "many normalisations": (3, 9, 7), "shared normalisation": (3, 5, 6),
    "odd poolings": (3, 9, 7), "dropout": (3, 5, 5), "large stem": (3, 17, 17),
}  # fmt: skip
WIDTHS = {
    "resnet20": 0.25, "vgg19_bn": 0.125, "resnet110": 0.25, "resnet18": 0.125, "resnet50": 0.125,
    "resnet50_cifar": 0.125, "mobilenet_v2": 0.25, "mobilenet_v2_cifar": 0.25,
}  # fmt: skip


RULE = Sgd(0.9, 5e-4, False)


@dataclass(frozen=True)
class Case:
    """One compiled step; `scheme` None: dense.

    `optimised`: as users compile it; without LLVM's optimiser, which is none of this project's, that takes a third of
    the time. `family`: kernels that find their weights that way are taken where a layer can have them, elsewhere the
    probable ones.
    """

    network: str
    scheme: str | None
    batch: int = 4
    rule: Sgd = RULE
    first: str = "dense"
    seed: int = 0
    threads: int | None = None
    optimised: bool = False
    dtype: str = "float64"
    family: str = ""
    device: str = "cpu"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one example."""
        return SHAPES[self.network]

    def profile(self) -> Profile | None:
        """70 % of every convolution but the first (or of that too)."""
        return Profile(LayerPlan(self.scheme, 0.7), self.first) if self.scheme else None


def _prefer(family: str) -> Pick:
    def pick(direction: str, layer: LayerProblem, found: Sequence[Choice]) -> Choice:
        return next((choice for choice in found if choice.family == family), found[0])

    return pick


def unoptimised(profile: CpuProfile) -> tvm.target.Target:
    """A CPU's target without LLVM's optimiser."""
    return tvm.target.Target({**profile.llvm, "opt-level": 0})


@dataclass(frozen=True)
class Compiled:
    """A model, its artifact, and the module its library was made from."""

    case: Case
    model: nn.Module
    artifact: Artifact
    lowered: StepProgram


def model_of(case: Case) -> nn.Module:
    """The network, with the weights of its seed."""
    torch.manual_seed(case.seed)
    if case.network in _OWN:
        model = _OWN[case.network]()
    else:
        model = models.build(case.network, classes=CLASSES, in_channels=3, width=WIDTHS[case.network])
    return model.to(getattr(torch, case.dtype))


@cache
def compiled(case: Case, options: StepOptions = PLAIN) -> Compiled:
    """Compiles a case with options; nobody may change what this returns."""
    model = model_of(case)
    lowered: list[StepProgram] = []

    def keep(*args: object) -> Fitted:
        fitted = fit(*args)
        lowered.append(fitted.lowered)
        return fitted

    fit = Fitter.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fitter, "fit", keep)  # the artifact does not hold the module
        patch.setattr(compiler, "TunedOrProbable", lambda records: _prefer(case.family))
        if not case.optimised:
            patch.setattr(CpuProfile, "target", property(unoptimised))
        share_traces(patch, (case.network, case.seed, case.dtype))
        artifact = compiler.compile_step(
            model, input_shape=case.shape, batch=case.batch, profile=case.profile(), optimizer=case.rule,
            seed=case.seed, threads=case.threads, dtype=case.dtype, device=case.device, measure=False, options=options,
        )  # fmt: skip
    return Compiled(case, model, artifact, lowered[0])
