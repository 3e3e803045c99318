"""FuseForwardSums and FuseBackwardSums on small traced models: which calls they change, and the kernels that follow."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
import tvm

from mest_compiler.devices import local_cpu
from mest_compiler.frontend import trace
from mest_compiler.frontend.ops import attributes
from mest_compiler.passes.fuse_backward_sums import FuseBackwardSums
from mest_compiler.passes.fuse_forward_sums import FuseForwardSums
from mest_compiler.passes.options import StepOptions
from mest_compiler.passes.pipeline import tile
from mest_compiler.passes.program import op_name
from mest_compiler.passes.step_program import StepProgram

from .programs import CALLS, bindings, calls_of, kernel_calls, operators
from .test_fuse_normalise import Net, fused
from .test_lowered_steps import plan


def marks(mod: tvm.IRModule, operator: str) -> list[int]:
    """Whether each call of an operator is marked, in order."""
    return [a.get("sums", 0) for a in calls_of(mod, operator)]


def ours(mod: tvm.IRModule) -> list[tuple[str, int, dict]]:
    """Every mest.* call of the step: operator, number of arguments, attributes."""
    calls = [(op_name(e), e) for _, e in bindings(mod, "step")]
    return [(name, len(e.args), attributes(e)) for name, e in calls if name.startswith("mest.")]


def identity_block(x, c, n):
    """A block as in a residual network."""
    x = F.relu(n[0](x))
    return F.relu(n[2](c[1](F.relu6(n[1](c[0](x))))) + x)


def test_norms_right_behind_a_convolution_get_its_sums() -> None:
    _, before = fused(identity_block, 2, 3)
    after = FuseForwardSums()(before)
    assert operators(after) == operators(before)
    assert marks(after, "mest.conv2d") == marks(after, "mest.normalise") == [1, 1, 1]
    assert "sums" not in str(after["predict"])
    assert marks(after, "mest.conv2d_backward_data") == [0, 0]


@pytest.mark.parametrize(
    ("body", "convs"),
    [(lambda x, c, n: n[0](F.relu(x)), 0), (lambda x, c, n: n[0](F.max_pool2d(c[0](x), 2)), 1)],
    ids=["relu", "pooling"],
)
def test_norms_behind_anything_else_take_their_own(body, convs: int) -> None:
    _, before = fused(body, convs, 1)
    assert ours(FuseForwardSums()(before)) == ours(before)


def test_two_norms_of_one_convolution_share_its_sums() -> None:
    _, before = fused(lambda x, c, n: n[0](x) * n[1](x), 0, 2)
    after = FuseForwardSums()(before)
    assert marks(after, "mest.conv2d") == [1] and marks(after, "mest.normalise") == [1, 1]


def test_the_mask_moves_into_backward_data() -> None:
    _, before = fused(identity_block, 2, 3)
    after = FuseBackwardSums()(before)
    # The block's last norm has a residual to give its gradient to, the first one gets two gradients.
    assert marks(after, "mest.normalise_backward") == [0, 1, 0]
    assert marks(after, "mest.conv2d_backward_data") == [1, 0]
    moved, plain = calls_of(after, "mest.conv2d_backward_data")
    assert (moved["relu"], moved["upper"], moved["residual"], moved["arguments"]) == (1, 6, 0, 2 + 5)
    assert plain["arguments"] == 2 and "relu" not in plain
    norm = calls_of(after, "mest.normalise_backward")[1]
    assert (norm["relu"], norm["residual"], norm["keep"], norm["arguments"]) == (0, 0, 0, 5 + 1)
    assert "sums" not in str(after["predict"])
    assert marks(after, "mest.normalise") == [0, 0, 0]


def test_a_residual_without_a_gradient_is_masked_by_the_output() -> None:
    def body(x, c, n):
        return c[0](F.relu(n[0](x) + x.detach()))

    _, before = fused(body, 1, 1)
    assert [(a["relu"], a["residual"]) for a in calls_of(before, "mest.normalise_backward")] == [(1, 1)]
    (moved,) = calls_of(FuseBackwardSums()(before), "mest.conv2d_backward_data")
    assert (moved["relu"], moved["residual"], moved["sums"], moved["arguments"]) == (1, 1, 1, 2 + 6)


def read_twice(x, c, n):
    """Two gradients meet in front of a norm."""
    x = F.relu(n[0](x))
    return c[0](x) * c[1](x)


def pooled(x, c, n):
    """The gradient of a norm comes from a pooling."""
    return c[0](F.max_pool2d(F.relu(n[0](x)), 2))


def scaled(x, c, n):
    """The gradient of a norm is no backward-data's."""
    return c[0](F.relu(n[0](x)) * 0.5)


def added(x, c, n):
    """The gradient of a norm is its residual's too."""
    return c[0](n[0](x) + x)


def kept(x, c, n):
    """The gradient of a norm is its residual's too, once it is masked."""
    return c[0](F.relu(n[0](x) + x))


@pytest.mark.parametrize(("body", "convs"), [(read_twice, 2), (pooled, 1), (scaled, 1), (added, 1), (kept, 1)])
def test_other_gradients_stay_as_they_are(body, convs: int) -> None:
    _, before = fused(body, convs, 1)
    assert ours(FuseBackwardSums()(before)) == ours(before)


@cache
def tiled(scheme: str | None, options: StepOptions) -> StepProgram:
    """A stem and a block as kernels; nobody may change it."""
    torch.manual_seed(0)
    graph = trace(Net(identity_block, 2, 3), torch.zeros(6, 3, 5, 5))
    return tile(graph, plan(graph, scheme) if scheme else {}, local_cpu(1), options)


NORMS, ALONE = 3, 1  # of them, those whose only gradient is a convolution's
PLAIN = StepOptions(forward_inputs=False)
FORWARD, BACKWARD = replace(PLAIN, forward_sums=True), replace(PLAIN, backward_sums=True)


# With patterns the stem is dense too.
@pytest.mark.parametrize("scheme", [pytest.param(None, marks=pytest.mark.slow), "pattern"])
def test_each_can_be_had_alone(scheme: str | None) -> None:
    plain, forward, backward = (tiled(scheme, options) for options in (PLAIN, FORWARD, BACKWARD))
    for tiles in (plain, backward):
        assert kernel_calls(tiles.module, "step")["normalise"] == NORMS
    calls = kernel_calls(forward.module, "step")
    assert calls["normalise"] == 0 and calls["normalise_from_sums"] == NORMS
    assert calls["normalise_backward"] == kernel_calls(plain.module, "step")["normalise_backward"] == NORMS
    assert sum(calls[name] for name in calls if name.endswith("forward_sums")) == NORMS
    assert not any(name.endswith("backward_data_sums") for name in calls)
    calls = kernel_calls(backward.module, "step")
    assert calls["normalise_backward_from_sums"] == ALONE and calls["normalise_backward"] == NORMS - ALONE
    assert sum(calls[name] for name in calls if name.endswith("backward_data_sums")) == ALONE
    assert not any(name.endswith("forward_sums") for name in calls)
    assert not any("sums" in name for name in kernel_calls(plain.module, "step"))
    for tiles in (forward, backward):
        assert kernel_calls(tiles.module, "predict") == kernel_calls(plain.module, "predict")


@pytest.mark.parametrize("options", [FORWARD, BACKWARD])
def test_a_layer_names_the_kernels_of_the_step(options: StepOptions) -> None:
    result = tiled("block", options)
    called = {str(e.args[0].name_hint) for _, e in bindings(result.module, "step") if op_name(e) in CALLS}
    named = [layer.functions for layer in result.layers.values()]
    assert {name for functions in named for name in functions.values()} <= called
    direction = "forward" if options.forward_sums else "backward_data"
    assert any("_sums" in functions[direction] for functions in named if direction in functions)
