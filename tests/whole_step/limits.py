"""Whole steps under options of memory, each compiled once a session, and the limits that there are for them."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

from mest_compiler.compile import compile_step
from mest_compiler.devices import CpuProfile
from mest_compiler.errors import MemoryLimitError
from mest_compiler.passes.options import StepOptions
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.trainer import Trainer

from ..runtime.states import all_state, check_same_bits
from .cases import Case, _unoptimised, model_of
from .training import LR, MaskedTraining, batch, check_steps

PLAIN = StepOptions()


@cache
def with_options(case: Case, options: StepOptions) -> Artifact:
    """The step of a case, the same weights and masks, with options; nobody may change what this returns."""
    with pytest.MonkeyPatch.context() as patch:
        if not case.optimised:
            patch.setattr(CpuProfile, "target", property(_unoptimised))
        return compile_step(
            model_of(case), input_shape=case.shape, batch=case.batch, profile=case.profile(),
            optimizer=case.rule, seed=case.seed, threads=case.threads, dtype=case.dtype, measure=False,
            options=options,
        )  # fmt: skip


def planned_peak(case: Case) -> int:
    """Bytes of the step that nothing limits."""
    return with_options(case, PLAIN).manifest["memory"]["planned_peak"]


@cache
def smallest(case: Case) -> int:
    """Bytes of the smallest limit that the whole batch at a time can be compiled for."""
    with pytest.raises(MemoryLimitError) as caught:
        with_options(case, StepOptions(memory_limit=1, micro_batch=case.batch))
    return caught.value.smallest


def limited(case: Case, share: float) -> tuple[Artifact, int]:
    """The step under a limit at this share of the way from the smallest to the plan without one, and the limit."""
    limit = smallest(case) + int(share * (planned_peak(case) - smallest(case)))
    return with_options(case, StepOptions(memory_limit=limit)), limit


def check_same(case: Case, artifact: Artifact, steps: int = 3) -> None:
    """Fails unless some steps leave bit by bit what they leave without options."""
    trainer, plain = Trainer(artifact), Trainer(with_options(case, PLAIN))
    for number in range(steps):
        x, y = batch(case.batch, case.shape, number)
        (loss, logits), (wanted, wanted_logits) = (t.step(x.numpy(), y.numpy(), LR) for t in (trainer, plain))
        assert loss == wanted
        np.testing.assert_array_equal(logits, wanted_logits)
        check_same_bits(all_state(trainer), all_state(plain))


def check_agrees(case: Case, artifact: Artifact, steps: int = 3) -> None:
    """Fails unless some steps are PyTorch's."""
    trainer = Trainer(artifact)
    reference = MaskedTraining(model_of(case), trainer.masks(), case.rule)
    check_steps(trainer, reference, case.rule, case.shape, steps)


def narrow_and_wide(case: Case) -> tuple[Artifact, Artifact]:
    """The step of a case in float32, whose activations wait in bfloat16 and in float32."""
    case = dataclasses.replace(case, dtype="float32")
    return with_options(case, StepOptions(stored="bfloat16")), with_options(case, PLAIN)
