"""Memory is reused, so nothing in it is zero by itself: steps whose kernels find NaN in all they have to write."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.runtime.vm import VMInstrumentReturnKind

from mest_compiler.optimizers import Sgd
from mest_compiler.passes.options import StepOptions
from mest_compiler.passes.step_program import StepProgram
from mest_compiler.runtime.trainer import Trainer

from .cases import Case, Compiled, compiled
from .training import MaskedTraining, batch, check_steps

CASES = [
    Case("large stem", "block", batch=5, rule=Sgd(0.9, 0.0, False)),
    pytest.param(Case("resnet20", "block", batch=5), marks=pytest.mark.slow),
    pytest.param(Case("vgg19_bn", "block"), marks=pytest.mark.slow),
    Case("odd convolutions", "unstructured", batch=5, rule=Sgd(0.9, 5e-4, True)),
    Case("odd normalisations", "block"),
    Case("odd activations", "unstructured", batch=5),
    Case("pre-activation", "channel", batch=5),
    Case("pre-activation", "pattern", family="zeros"),
    Case("pre-activation", "filter", batch=5, first="sparse"),
    pytest.param(Case("odd convolutions", "filter", batch=3), marks=pytest.mark.slow),
    Case("large stem", "unstructured", batch=5, family="zeros"),
    Case("odd normalisations", "pattern", batch=7, first="sparse", rule=Sgd(0.0, 1e-3, False)),
    Case("pre-activation", "block", batch=5, first="sparse"),
]
REWRITTEN = [
    Case("pre-activation", "block", batch=5, threads=1),
    pytest.param(Case("many normalisations", "pattern", batch=9), marks=pytest.mark.slow),
]


def fresh_outputs(lowered: StepProgram) -> dict[str, list[int]]:
    """Kernel -> which of its last arguments are outputs that nobody has written yet, counted from the end."""
    found: dict[str, list[int]] = {}
    for function in lowered.module.functions.values():
        if not isinstance(function, relax.Function):
            continue
        for block in function.body.blocks:
            for binding in block.bindings:
                call = binding.value
                name = call.op.name if isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.Op) else ""
                if name not in ("relax.call_tir", "relax.call_tir_inplace"):
                    continue
                ty = call.ty_args[0]
                count = len(ty.fields) if isinstance(ty, relax.TupleType) else 1
                if name == "relax.call_tir_inplace":
                    # outputs in place are among the inputs; only the others are arguments of their own
                    count = sum(int(i) < 0 for i in call.attrs.inplace_indices)
                found[str(call.args[0].name_hint)] = list(range(-count, 0))
    return found


def poison(trainer: Trainer, lowered: StepProgram) -> dict[str, int]:
    """From now on every kernel's outputs are filled before it runs; counts calls by kernel."""
    outputs, seen = fresh_outputs(lowered), {}

    def instrument(_func, name, before: bool, _result, *args):
        if before and str(name) in outputs:
            seen[str(name)] = seen.get(str(name), 0) + 1
            for place in outputs[str(name)]:
                target = args[place]
                value = np.nan if str(target.dtype).startswith("float") else 123456789
                target.copyfrom(np.full(target.shape, value, str(target.dtype)))
        return VMInstrumentReturnKind.NO_OP

    trainer.session.vm.set_instrument(instrument)
    return seen


def check(built: Compiled) -> None:
    """Fails unless a step whose kernels find NaN trains as PyTorch does, and calls all its kernels."""
    case = built.case
    trainer = Trainer(built.artifact)
    seen = poison(trainer, built.lowered)
    check_steps(trainer, MaskedTraining(built.model, trainer.masks(), case.rule), case.rule, case.shape)
    assert set(seen) == set(fresh_outputs(built.lowered))
    assert sum(seen.values()) > len(seen)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_steps_write_all_they_read(case: Case) -> None:
    check(compiled(case))


@pytest.mark.parametrize("case", REWRITTEN, ids=str)
def test_steps_with_sums_write_all_they_read(case: Case) -> None:
    check(compiled(case, StepOptions(forward_sums=True, backward_sums=True)))


def test_poison_reaches_the_results() -> None:
    # A check of the check: a kernel that does not run leaves NaN behind.
    built = compiled(CASES[-1])
    trainer = Trainer(built.artifact)
    outputs = fresh_outputs(built.lowered)

    def instrument(_func, name, before: bool, _result, *args):
        if before and str(name) == "plane_mean":
            for place in outputs["plane_mean"]:
                args[place].copyfrom(np.full(args[place].shape, np.nan, str(args[place].dtype)))
            return VMInstrumentReturnKind.SKIP_RUN
        return VMInstrumentReturnKind.NO_OP

    trainer.session.vm.set_instrument(instrument)
    x, y = batch(CASES[-1].batch, CASES[-1].shape, 0)
    loss, _ = trainer.step(x.numpy(), y.numpy(), 0.1)
    assert np.isnan(loss)
