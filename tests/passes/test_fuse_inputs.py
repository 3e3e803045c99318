"""FuseWeightGradients and FuseForwardInputs on small traced models: which calls compute the batch norm in front of them
themselves, what is left of it, and the kernels that follow."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
import tvm
from tvm import relax

from mest_compiler.devices import local_cpu
from mest_compiler.frontend import trace
from mest_compiler.frontend.ops import attributes
from mest_compiler.passes.fuse_forward_inputs import FuseForwardInputs
from mest_compiler.passes.fuse_forward_sums import FuseForwardSums
from mest_compiler.passes.fuse_weight_gradients import FuseWeightGradients
from mest_compiler.passes.options import StepOptions
from mest_compiler.passes.pipeline import tile
from mest_compiler.passes.program import Program, op_name
from mest_compiler.passes.step_program import StepProgram

from .programs import bindings, calls_of, kernel_calls, operators
from .test_fuse_normalise import Net, fused
from .test_fuse_sums import identity_block, marks, ours
from .test_lowered_steps import plan

CONV, GRADIENT = "mest.conv2d", "mest.conv2d_backward_weight"
NORM, STATISTICS = "mest.normalise", "mest.batch_statistics"


def both(mod: tvm.IRModule) -> tvm.IRModule:
    """The module after both passes."""
    return FuseForwardInputs()(FuseWeightGradients()(mod))


def recompute(mod: tvm.IRModule, operator: str) -> list[int]:
    """Whether each call of an operator computes a batch norm again, in order."""
    return [a.get("recompute", 0) for a in calls_of(mod, operator)]


def calls(mod: tvm.IRModule, operator: str) -> list[relax.Call]:
    """Every call of an operator in the step."""
    return [expr for _, expr in bindings(mod, "step") if op_name(expr) == operator]


def names(call: relax.Call) -> list[str]:
    """Its arguments."""
    return [a.name for a in call.args]


def two_norms(x, c, n):
    """A norm with a bounded ReLU and one without any, each in front of one convolution."""
    return c[1](n[1](c[0](F.relu6(n[0](x)))))


def test_weight_gradients_read_what_the_norm_reads() -> None:
    _, before = fused(identity_block, 2, 3)
    after = FuseWeightGradients()(before)
    # Backward runs from the end: the block's convolutions, and the stem, which no norm stands in front of.
    assert recompute(after, GRADIENT) == [1, 1, 0]
    assert [(a.get("relu"), a.get("upper"), a["arguments"]) for a in calls_of(after, GRADIENT)] == [
        (1, 6, 6), (1, math.inf, 6), (None, None, 2)
    ]  # fmt: skip
    assert recompute(after, CONV) == [0, 0, 0] and operators(after) == operators(before)


def test_a_norm_that_one_convolution_reads_moves_into_it() -> None:
    _, before = fused(identity_block, 2, 3)
    after = both(before)
    # The first norm is the residual too, the last one has a residual.
    assert recompute(after, CONV) == [0, 0, 1] and recompute(after, GRADIENT) == [1, 1, 0]
    assert (operators(after)[NORM], operators(after)[STATISTICS]) == (2, 1)
    moved, norm = calls_of(after, CONV)[2], calls_of(before, NORM)[1]
    assert (moved["relu"], moved["upper"], moved["arguments"]) == (1, 6, 6)
    (statistics,) = calls_of(after, STATISTICS)
    assert statistics == {"momentum": norm["momentum"], "eps": norm["eps"], "arguments": 3}


def test_what_is_read_instead() -> None:
    _, before = fused(two_norms, 2, 2)
    after = both(before)
    assert recompute(after, CONV) == [0, 1, 1] and recompute(after, GRADIENT) == [1, 1, 0]
    assert operators(after)[NORM] == 0 and operators(after)[STATISTICS] == 2
    assert [(a["relu"], a["upper"]) for a in calls_of(after, CONV)[1:]] == [(1, 6), (0, math.inf)]
    program = Program.of(after["step"])
    items = [program.items()[var] for var, expr in program.bindings if op_name(expr) == STATISTICS]
    stem, *convs = (var for var, expr in program.bindings if op_name(expr) == CONV)
    gradients = calls(after, GRADIENT)[1::-1]
    for number, (x, conv) in enumerate(zip((stem, *convs), convs, strict=False)):
        mean, rstd = (items[number][i].name for i in range(2))
        affine = [f"bns_{number}_weight", f"bns_{number}_bias"]
        assert names(program.definitions()[conv]) == [x.name, f"convs_{number}_weight", *affine, mean, rstd]
        assert names(gradients[number])[1:] == [x.name, *affine, mean, rstd]
        running = [f"bns_{number}_running_{what}" for what in ("mean", "var")]
        assert names(calls(after, STATISTICS)[number]) == [x.name, *running]


def returned(mod: tvm.IRModule) -> list[tuple[str, int]]:
    """(operator that makes it, item) of all results of the step."""
    program = Program.of(mod["step"])
    defined, found = program.definitions(), []
    for out in program.outputs:
        expr = defined.get(out)
        item = int(expr.index) if isinstance(expr, relax.TupleGetItem) else -1
        found.append((op_name(defined[expr.tuple_value] if item >= 0 else expr), item))
    return found


def test_the_running_statistics_are_returned_where_they_were() -> None:
    _, before = fused(two_norms, 2, 2)
    found = returned(both(before))
    moved = [(STATISTICS, item - 1) if name == NORM else (name, item) for name, item in returned(before)]
    assert found == moved and {item for name, item in found if name == STATISTICS} == {2, 3}


def residual(x, c, n):
    """A norm with a residual in front of a convolution."""
    return c[0](F.relu(n[0](x) + x))


def read_twice(x, c, n):
    """Two convolutions read a norm."""
    x = F.relu(n[0](x))
    return c[0](x) * c[1](x)


def added_later(x, c, n):
    """A convolution and an add read a norm."""
    z = F.relu6(n[0](x))
    return c[0](z) + z


def pooled(x, c, n):
    """A pooling reads a norm."""
    return c[0](F.max_pool2d(F.relu(n[0](x)), 2))


def other_activation(x, c, n):
    """An activation that is no ReLU reads a norm."""
    return c[0](F.hardtanh(n[0](x), -1, 1))


def last(x, c, n):
    """The classifier's mean reads a norm."""
    return n[0](c[0](x))


def no_gradient(x, c, n):
    """Nothing of a norm goes back through the convolution, so its statistics are nobody's."""
    return c[0](F.relu(n[0](x)).detach()) * n[0](x)


OTHERS = [(residual, 1), (read_twice, 2), (added_later, 1), (pooled, 1), (other_activation, 1), (last, 1),
          (no_gradient, 1)]  # fmt: skip


@pytest.mark.parametrize(("body", "convs"), OTHERS)
def test_other_norms_stay_as_they_are(body, convs: int) -> None:
    _, before = fused(body, convs, 1)
    between = FuseWeightGradients()(before)
    assert sum(recompute(between, GRADIENT)) == {read_twice: 2, added_later: 1}.get(body, 0)
    assert ours(FuseForwardInputs()(between)) == ours(between)


@pytest.mark.parametrize("body", [identity_block, two_norms])
def test_nothing_moves_while_a_weight_gradient_reads_the_output(body) -> None:
    _, before = fused(body, 2, 3 if body is identity_block else 2)
    assert ours(FuseForwardInputs()(before)) == ours(before)


@pytest.mark.parametrize("function", ["step", "predict"])
def test_the_signature_stays(function: str) -> None:
    _, before = fused(two_norms, 2, 2)
    after = both(before)
    assert [str(p.ty) for p in before[function].params] == [str(p.ty) for p in after[function].params]
    assert str(before[function].ret_ty) == str(after[function].ret_ty)
    if function == "predict":
        assert operators(after, function) == operators(before, function)
        assert not any("recompute" in attributes(e) for _, e in bindings(after, function) if op_name(e) == CONV)


def test_sums_are_taken_for_statistics_too() -> None:
    _, before = fused(identity_block, 2, 3)
    after = FuseForwardSums()(both(before))
    assert marks(after, CONV) == [1, 1, 1] and recompute(after, CONV) == [0, 0, 1]
    assert marks(after, NORM) == [1, 1] and marks(after, STATISTICS) == [1]
    assert [a["arguments"] for a in calls_of(after, CONV)] == [2, 2, 6]


# ---- as kernels
NORMS = 4


@cache
def tiled(scheme: str | None, options: StepOptions) -> StepProgram:
    """A stem and three convolutions as kernels, two of them behind norms of their own; nobody may change it."""

    def body(x, c, n):
        return identity_block(c[2](F.relu(n[3](x))), c, n)

    torch.manual_seed(0)
    graph = trace(Net(body, 3, NORMS), torch.zeros(6, 3, 5, 5))
    return tile(graph, plan(graph, scheme) if scheme else {}, local_cpu(2), options)


def of_kind(tiles: StepProgram, ending: str) -> int:
    """Calls of kernels whose name ends so."""
    found = kernel_calls(tiles.module, "step")
    return sum(found[name] for name in found if name.endswith(ending))


# With patterns the stem is dense too.
@pytest.mark.parametrize("scheme", [pytest.param(None, marks=pytest.mark.slow), "pattern"])
def test_each_can_be_had_alone(scheme: str | None) -> None:
    plain = tiled(scheme, StepOptions(weight_gradients=False, forward_inputs=False))
    gradients = tiled(scheme, StepOptions(forward_inputs=False))
    inputs = tiled(scheme, StepOptions(weight_gradients=False))
    every, sums = tiled(scheme, StepOptions()), tiled(scheme, StepOptions(forward_sums=True))
    assert StepOptions().forward_inputs
    # Without the other one the second pass finds a reader beside every convolution.
    assert kernel_calls(inputs.module, "step") == kernel_calls(plain.module, "step")
    for tiles in (plain, gradients):
        assert kernel_calls(tiles.module, "step")["normalise"] == NORMS and of_kind(tiles, "_normalised") == 0
    found = kernel_calls(every.module, "step")
    assert (found["normalise"], found["batch_statistics"], of_kind(every, "forward_normalised")) == (2, 2, 2)
    found = kernel_calls(sums.module, "step")
    assert (found["normalise_from_sums"], found["batch_statistics_from_sums"]) == (2, 2)
    assert of_kind(sums, "forward_normalised_sums") == of_kind(sums, "forward_sums") == 2
    for tiles in (gradients, inputs, every, sums):
        assert kernel_calls(tiles.module, "predict") == kernel_calls(plain.module, "predict")


@pytest.mark.parametrize("function", ["step", "predict"])
def test_no_border_is_added_in_a_pass_of_its_own(function: str) -> None:
    assert kernel_calls(tiled("pattern", StepOptions()).module, function)["add_border"] == 0
