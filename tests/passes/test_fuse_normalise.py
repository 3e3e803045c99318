"""FuseNormalise on small traced models: the chains that become one operator, the gradients it joins, what it leaves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mest_compiler.frontend import trace
from mest_compiler.passes.fuse_normalise import FuseNormalise

from .programs import calls_of, operators

APART = ("mest.batch_norm", "mest.batch_norm_backward", "mest.batch_norm_inference")


def conv(channels: int = 4) -> nn.Conv2d:
    """A 3x3 convolution to 4 filters."""
    return nn.Conv2d(channels, 4, 3, padding=1, bias=False)


class Net(nn.Module):
    """A stem, what a test gives, and a classifier."""

    def __init__(self, body, convs: int, norms: int) -> None:
        super().__init__()
        self.stem, self.fc = conv(3), nn.Linear(4, 10)
        self.convs = nn.ModuleList(conv() for _ in range(convs))
        self.bns = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(norms))
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.fc(self.body(self.stem(x), self.convs, self.bns).mean((2, 3)))


def fused(body, convs: int, norms: int):
    """(module before, module after) of a network with this body."""
    torch.manual_seed(0)
    graph = trace(Net(body, convs, norms), torch.zeros(2, 3, 5, 5))
    return graph.module, FuseNormalise()(graph.module)


def kinds(mod) -> list[tuple[int, int]]:
    """(relu, residual) of every normalise of the step."""
    return [(a["relu"], a["residual"]) for a in calls_of(mod, "mest.normalise")]


def gradients(mod) -> list[tuple[int, int, int]]:
    """(relu, keep, incoming gradients) of every normalise_backward of the step, in order."""
    found = calls_of(mod, "mest.normalise_backward")
    return [(a["relu"], a["keep"], a["arguments"] - 5 - a["residual"]) for a in found]


def check_nothing_is_apart(mod) -> None:
    """No batch norm is left as it was traced."""
    for function in ("step", "predict"):
        left = [name for name in operators(mod, function) if name in APART]
        assert left == [], function


def test_norm_and_relu() -> None:
    before, after = fused(lambda x, c, n: F.relu(n[0](x)), 0, 1)
    assert operators(before)["mest.batch_norm"] == operators(before)["relax.nn.relu"] == 1
    check_nothing_is_apart(after)
    assert kinds(after) == [(1, 0)] and gradients(after) == [(1, 0, 1)]
    assert operators(after)["relax.nn.relu"] == operators(after)["mest.relu_backward"] == 0
    (predicted,) = calls_of(after, "mest.normalise_inference", "predict")
    assert (predicted["relu"], predicted["residual"]) == (1, 0)


def bounds(mod) -> list[float]:
    """Upper bound of every normalise of the step."""
    return [a["upper"] for a in calls_of(mod, "mest.normalise")]


def test_norm_and_clipped_relu() -> None:
    before, after = fused(lambda x, c, n: F.hardtanh(n[1](c[0](F.relu6(n[0](x))) + x), 0, 0.5), 1, 2)
    assert operators(before)["mest.clip"] == operators(before)["mest.clip_backward"] == 2
    check_nothing_is_apart(after)
    assert kinds(after) == [(1, 0), (1, 0)] and bounds(after) == [6, 0.5]
    assert [a["upper"] for a in calls_of(after, "mest.normalise_backward")] == [0.5, 6]
    assert operators(after)["mest.clip"] == operators(after)["mest.clip_backward"] == 0
    assert operators(after, "predict")["mest.clip"] == 0


def test_norm_residual_and_clipped_relu() -> None:
    _, after = fused(lambda x, c, n: F.relu6(n[0](c[0](x)) + x), 1, 1)
    check_nothing_is_apart(after)
    assert kinds(after) == [(1, 1)] and bounds(after) == [6] and gradients(after) == [(1, 1, 1)]


def test_a_clip_that_is_no_relu_stays_apart() -> None:
    _, after = fused(lambda x, c, n: F.hardtanh(n[0](x), -1, 1), 0, 1)
    check_nothing_is_apart(after)
    assert kinds(after) == [(0, 0)] and bounds(after) == [float("inf")]
    assert operators(after)["mest.clip"] == operators(after)["mest.clip_backward"] == 1


def test_a_clamp_reads_its_input_and_stays_apart() -> None:
    # Its gradient on the bounds is 1, which the output does not tell.
    _, after = fused(lambda x, c, n: torch.clamp(n[0](x), 0, 6), 0, 1)
    assert kinds(after) == [(0, 0)] and operators(after)["mest.clamp_backward"] == 1


def test_norm_alone() -> None:
    _, after = fused(lambda x, c, n: c[0](n[0](x)), 1, 1)
    check_nothing_is_apart(after)
    assert kinds(after) == [(0, 0)] and gradients(after) == [(0, 0, 1)]


def test_identity_block() -> None:
    def body(x, c, n):
        x = F.relu(n[0](x))
        return F.relu(n[2](c[1](F.relu(n[1](c[0](x))))) + x)

    _, after = fused(body, 2, 3)
    check_nothing_is_apart(after)
    assert kinds(after) == [(1, 0), (1, 0), (1, 1)]
    # Backward runs from the end: the residual wants the masked gradient, the first norm gets both branches' sum.
    assert gradients(after) == [(1, 1, 1), (1, 0, 1), (1, 0, 2)]
    assert operators(after)["relax.add"] == 1 + 3  # the classifier's bias; one batch counter a norm
    assert operators(after)["mest.relu_backward"] == 0


def test_projection_block() -> None:
    def body(x, c, n):
        x = F.relu(n[0](x))
        return F.relu(n[2](c[1](F.relu(n[1](c[0](x))))) + n[3](c[2](x)))

    _, after = fused(body, 3, 4)
    check_nothing_is_apart(after)
    assert sorted(kinds(after)) == [(0, 0), (1, 0), (1, 0), (1, 1)]
    # Both norms in front of the add read one masked gradient: one makes it, the other takes it as it is.
    assert sorted(gradients(after)) == [(0, 0, 1), (1, 0, 1), (1, 0, 2), (1, 1, 1)]
    assert operators(after)["mest.relu_backward"] == 0


def test_two_norms_added_without_relu() -> None:
    _, after = fused(lambda x, c, n: n[0](c[0](x)) + n[1](c[1](x)), 2, 2)
    check_nothing_is_apart(after)
    assert sorted(kinds(after)) == [(0, 0), (0, 1)]
    assert gradients(after) == [(0, 0, 1), (0, 0, 1)]


def test_relu_read_twice() -> None:
    def body(x, c, n):
        x = F.relu(n[0](x))
        return c[0](x) * c[1](x)

    _, after = fused(body, 2, 1)
    check_nothing_is_apart(after)
    assert kinds(after) == [(1, 0)] and gradients(after) == [(1, 0, 2)]


def test_three_gradients_are_two_and_an_add() -> None:
    def body(x, c, n):
        x = F.relu(n[0](x))
        return c[0](x) * c[1](x) * c[2](x)

    _, after = fused(body, 3, 1)
    assert gradients(after) == [(1, 0, 2)]
    assert operators(after)["relax.add"] == 1 + 1 + 1  # bias, batch counter, the add that is left


def test_norm_read_before_its_relu() -> None:
    def body(x, c, n):
        x = n[0](x)
        return F.relu(x) * c[0](x)

    _, after = fused(body, 1, 1)
    check_nothing_is_apart(after)
    assert kinds(after) == [(0, 0)] and gradients(after) == [(0, 0, 2)]
    assert operators(after)["relax.nn.relu"] == operators(after)["mest.relu_backward"] == 1


def test_a_norm_added_to_itself_keeps_its_add() -> None:
    def body(x, c, n):
        x = n[0](x)
        return F.relu(x + x)

    _, after = fused(body, 0, 1)
    check_nothing_is_apart(after)
    assert kinds(after) == [(0, 0)]
    assert operators(after)["relax.nn.relu"] == 1


def test_a_constant_is_no_residual() -> None:
    _, after = fused(lambda x, c, n: F.relu(n[0](x) + 1.5), 0, 1)
    check_nothing_is_apart(after)
    assert kinds(after) == [(0, 0)] and operators(after)["relax.nn.relu"] == 1


def test_one_norm_twice() -> None:
    _, after = fused(lambda x, c, n: F.relu(n[0](c[0](F.relu(n[0](x))))), 1, 1)
    check_nothing_is_apart(after)
    assert kinds(after) == [(1, 0), (1, 0)] and len(gradients(after)) == 2


@pytest.mark.parametrize("function", ["step", "predict"])
def test_the_signature_stays(function: str) -> None:
    before, after = fused(lambda x, c, n: F.relu(n[0](x)), 0, 1)
    assert [str(p.ty) for p in before[function].params] == [str(p.ty) for p in after[function].params]
    assert str(before[function].ret_ty) == str(after[function].ret_ty)
