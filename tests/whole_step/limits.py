"""Whole steps under options of memory, each compiled once a session, and the limits that there are for them."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

from mest_compiler.errors import MemoryLimitError
from mest_compiler.passes.fit_memory import host_bytes
from mest_compiler.passes.options import PLAIN, StepOptions
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.trainer import Trainer

from ..runtime.states import all_state, check_same_bits
from .cases import Case, compiled, model_of
from .training import LR, MaskedTraining, batch, check_steps


def with_options(case: Case, options: StepOptions) -> Artifact:
    """The step of a case, the same weights and masks, with options; nobody may change what this returns."""
    return (compiled(case) if options == PLAIN else compiled(case, options)).artifact


def planned_peak(case: Case, options: StepOptions = PLAIN) -> int:
    """Bytes of the step that nothing limits."""
    return with_options(case, options).manifest["memory"]["planned_peak"]


def host(case: Case) -> int:
    """Bytes of a limit that are left to the host."""
    return host_bytes(len(dict(model_of(case).named_parameters())))


@cache
def smallest(case: Case, options: StepOptions = PLAIN) -> int:
    """Bytes of the smallest plan that the whole batch at a time can be compiled for."""
    with pytest.raises(MemoryLimitError) as caught:
        with_options(case, dataclasses.replace(options, memory_limit=1, micro_batch=case.batch))
    return caught.value.smallest - host(case)


def limited(case: Case, share: float, options: StepOptions = PLAIN) -> tuple[Artifact, int]:
    """The step under a limit at this share of the way from the smallest plan to the one without a limit, and the bytes
    that the limit leaves to the plan."""
    least = smallest(case, options)
    limit = least + int(share * (planned_peak(case, options) - least))
    return with_options(case, dataclasses.replace(options, memory_limit=limit + host(case))), limit


def check_same(case: Case, artifact: Artifact, steps: int = 3, options: StepOptions = PLAIN) -> None:
    """Fails unless some steps leave bit by bit what they leave with these options."""
    trainer, plain = Trainer(artifact), Trainer(with_options(case, options))
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
