"""The peak of a PyTorch iteration, where it is known by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mest_compiler.bench.torch_memory import peak_of, split_peak

INPUTS, OUTPUTS, BATCH = 2000, 1500, 4


def _iteration(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> SimpleNamespace:
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, fused=True)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()

    return SimpleNamespace(network=network, x=x, y=y, optimizer=optimizer, run=run)


def _linear() -> SimpleNamespace:
    return _iteration(nn.Linear(INPUTS, OUTPUTS, bias=False), torch.randn(BATCH, INPUTS), torch.zeros(BATCH).long())


def test_weights_gradients_and_momentum_of_a_linear_layer() -> None:
    found, weight = peak_of(_linear()), 4 * INPUTS * OUTPUTS
    assert (found["weights"], found["gradients"], found["optimizer"]) == (weight,) * 3
    assert found["data"] == 4 * BATCH * INPUTS + 8 * BATCH
    # logits, their logarithms and gradients: some [BATCH, OUTPUTS], beside a weight of 12 MB
    assert 0 < found["rest"] < 8 * 4 * BATCH * OUTPUTS
    parts = (found[kind] for kind in ("weights", "gradients", "optimizer", "data", "rest"))
    assert found["peak"] == sum(parts)


def test_it_is_the_same_the_second_time() -> None:
    iteration = _linear()
    assert peak_of(iteration) == peak_of(iteration)


def test_activations_are_what_a_deep_network_takes() -> None:
    size, depth = 512, 8
    layers = [layer for _ in range(depth) for layer in (nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.ReLU())]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = peak_of(_iteration(network, torch.randn(2, 4, 64, size), torch.zeros(2).long()))
    plane = 4 * 2 * 4 * 64 * size
    # a ReLU's output is what it and the next convolution keep; the rest is gradients, copies in other layouts, scratch
    assert depth * plane <= found["rest"] <= 2.1 * depth * plane
    assert found["gradients"] < found["rest"] / 100


def test_what_stays_is_told_from_what_goes() -> None:
    changes = [(1, 0xA, 100), (2, 0xB, 30), (3, 0xC, 50), (4, 0xA, -100), (5, 0xA, 20), (6, 0xC, -50)]
    # at time 3 there are 180 bytes, of which only those at 0xB are still the same in the end
    assert split_peak(changes[::-1]) == (30, 150)
    assert split_peak([]) == (0, 0)


def test_buffers_count_as_weights() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = peak_of(_iteration(network, torch.randn(2, 3, 8, 8), torch.zeros(2).long()))
    parameters = 4 * (8 * 3 * 9 + 8 + 8 + 8)
    assert found["weights"] == parameters + 4 * 2 * 8 + 8
    assert found["optimizer"] == parameters
    assert found["peak"] == pytest.approx(sum(found[kind] for kind in found if kind != "peak"))
