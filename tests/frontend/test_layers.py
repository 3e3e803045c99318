"""Layers beside convolutions and batch norms, forward and backward in float64 against PyTorch, on odd shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import nn


class Branches(nn.Module):
    """convolution -> each of `inner` -> mean over the plane: logits [N, 10] are the sum; one compilation for all.

    Each has a factor of its own, so that none can stand for another or hide its error.
    """

    def __init__(self, inner: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]) -> None:
        super().__init__()
        self.conv, self.inner = nn.Conv2d(3, 10, 3), list(inner.values())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.conv(x) * 2
        return sum(inner(x * (1 + i / 8)).mean((2, 3)) for i, inner in enumerate(self.inner))


def on_edges(x: torch.Tensor) -> torch.Tensor:
    """Many values lie exactly on the bounds -1 and 1, where the two gradients differ."""
    return F.hardtanh(torch.clamp(x, -1, 1), -1, 1) + torch.clamp(F.hardtanh(x, -1, 1), -1, 1) * 3


CLIPPED = {
    "relu6": F.relu6,
    "relu6 in place": nn.ReLU6(inplace=True),
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.9),
    "clamp": lambda x: torch.clamp(x, 0, 6),
    "one-sided": lambda x: x.clamp(min=-0.25) + x.clamp(max=0.5),
    "clamp min max": lambda x: torch.clamp_max(torch.clamp_min(x, 0.1), 1.5),
    "edges": on_edges,
}
POOLING = {
    "max, overlapping": nn.MaxPool2d(3, 2, 1),
    "avg": nn.AvgPool2d(2),
    "avg, padded": nn.AvgPool2d(3, 2, 1),
    "avg, inside": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "avg, divisor": nn.AvgPool2d((2, 3), (1, 2), (1, 0), divisor_override=5),
    "avg, whole plane, divisor": nn.AvgPool2d(7, divisor_override=5),
    "adaptive 1": nn.AdaptiveAvgPool2d(1),
    "adaptive rows": nn.AdaptiveAvgPool2d((7, 1)),
}


@pytest.mark.parametrize("layers", [CLIPPED, POOLING], ids=["clipped activations", "pooling"])
def test_layers_side_by_side(layers, batch, check_against_torch):
    check_against_torch(Branches(layers).double(), *batch(size=9))


@pytest.mark.parametrize("p", [0.0, 0.1, *(pytest.param(p, marks=pytest.mark.slow) for p in (0.5, 0.999))])
def test_dropout_of_activations_and_of_features(p, batch, check_against_torch):
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.Dropout(p), nn.ReLU(), nn.Dropout(p), nn.Flatten(), nn.Linear(5 * 49, 13),
        nn.Dropout(p), nn.Linear(13, 10),
    )  # fmt: skip
    graph = check_against_torch(model.double(), *batch(size=9))
    assert graph.seeded == (p > 0)


class Twice(nn.Module):
    """A weight that two products share."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = nn.Linear(12, 12), nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.last(F.relu(self.shared(F.relu(self.shared(x.flatten(1)[:, :12])))))


class Tied(nn.Module):
    """A weight that is used as it is and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(12, 7, bias=False), nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.last(F.relu(self.inner(x.flatten(1)[:, :12])) @ self.inner.weight)


class Penalised(nn.Module):
    """A weight that something else reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(12, 7), nn.Linear(7, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.last(self.inner(x.flatten(1)[:, :12]) * self.inner.weight.sum(1))


class Plain(nn.Module):
    """A matrix [C, F] that is no linear layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(12, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return x.flatten(1)[:, :12] @ self.matrix


@pytest.mark.parametrize(
    ("model", "linears"),
    [
        pytest.param(
            nn.Sequential(nn.Flatten(), nn.Linear(75, 7), nn.ReLU(), nn.Linear(7, 11, bias=False), nn.Linear(11, 10)),
            {"1.weight": (7, 75), "3.weight": (11, 7), "4.weight": (10, 11)},
            id="layers",
        ),
        pytest.param(
            nn.Sequential(nn.Conv2d(3, 10, 1), nn.Flatten(2), nn.Linear(25, 1), nn.Flatten()),
            {"2.weight": (1, 25)},
            id="rows",
        ),
        pytest.param(Twice(), {"last.weight": (10, 12)}, id="twice"),
        pytest.param(Tied(), {"last.weight": (10, 12)}, id="tied"),
        pytest.param(Penalised(), {"last.weight": (10, 7)}, id="penalised"),
        pytest.param(Plain(), {}, id="plain"),
    ],
)
def test_linear_layers_keep_their_names(model, linears, batch, check_against_torch):
    graph = check_against_torch(model.double(), *batch(size=5))
    assert graph.linears == linears
    text = graph.module["step"].script()
    for name in linears:  # forward, both gradients, but none into the image
        assert text.count(f'"param": "{name}"') >= 2
    named = sum("mest.linear" in line for line in text.splitlines())
    assert sum('"param": "' in line and "mest.linear" in line for line in text.splitlines()) == named
    if not linears:
        assert named == 0
