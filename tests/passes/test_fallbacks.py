"""What a network does outside batch tiles is reported, by the module that does it, and nothing else is."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from mest_compiler import models
from mest_compiler.compile import planned_layers
from mest_compiler.devices import Device, get_device
from mest_compiler.frontend import TrainingGraph, trace
from mest_compiler.frontend.origin import OUTSIDE, origin_of
from mest_compiler.losses import CrossEntropy, Loss, Mse
from mest_compiler.optimizers import Sgd
from mest_compiler.passes.dataflow import Dataflow
from mest_compiler.passes.fallbacks import INPUT, WORTH_A_WARNING, fallback_report
from mest_compiler.passes.fuse_normalise import FuseNormalise
from mest_compiler.passes.fuse_weight_gradients import FuseWeightGradients
from mest_compiler.passes.options import PLAIN, StepOptions
from mest_compiler.passes.pipeline import tile
from mest_compiler.passes.program import Program, op_name
from mest_compiler.passes.run import OnModule, through
from mest_compiler.passes.sparsify_layers import SparsifyLayers
from mest_compiler.passes.step_program import StepProgram
from mest_compiler.passes.tile_batch import OUTPUT
from mest_compiler.sparsity.profile import Profile

from .programs import bindings

BATCH, PLANE = 8, 16
IMAGES = BATCH * 8 * PLANE * PLANE
"""Numbers of an activation of 8 channels."""


class Twice(nn.Module):
    """Channels twice, which has no kernel for batch tiles."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x], 1)


def network(**middle: nn.Module) -> nn.Module:
    """Convolution, something in the middle, convolution, pooling, classifier."""
    inner = 16 if "twice" in middle else 8
    layers = {"first": nn.Conv2d(3, 8, 3, padding=1, bias=False), "norm": nn.BatchNorm2d(8), "relu": nn.ReLU()}
    layers |= middle
    layers |= {"last": nn.Conv2d(inner, 8, 3, padding=1), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
    return nn.Sequential(OrderedDict({**layers, "head": nn.Linear(8, 10)}))


def reported(graph: TrainingGraph, tiled: StepProgram, target: Device, parts: int) -> dict[str, Any]:
    """What is said of a tiled step with SGD."""
    flow = Dataflow(Program.of(tiled.module["step"]), tiled.repeats, tiled.flops)
    return fallback_report(graph.module, tiled, flow, Sgd(0.9, 0.0, False), target, parts)


@cache
def traced(middle: type[nn.Module] | None = None) -> TrainingGraph:
    """The network, with this in the middle; nobody may change it."""
    return trace(network(middle=middle()) if middle else network(), torch.zeros(BATCH, 3, PLANE, PLANE))


def report(
    model: nn.Module | TrainingGraph, *, device: str = "cpu", options: StepOptions = PLAIN, parts: int = 1,
    loss: Loss | None = None,
) -> dict[str, Any]:  # fmt: skip
    target, graph = get_device(device), model
    if isinstance(model, nn.Module):
        graph = trace(model, torch.zeros(BATCH, 3, PLANE, PLANE), loss or CrossEntropy())
    return reported(graph, tile(graph, {}, target, options), target, parts)


def rows(found: dict[str, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """(operator, module) -> (calls, bytes)."""
    return {(one["operator"], one["module"]): (one["calls"], one["bytes"]) for one in found["operators"]}


@pytest.mark.parametrize("device", ["cpu", "galaxy-s20"])
def test_an_operator_in_the_middle_costs_a_pair_of_conversions(device: str) -> None:
    found = report(traced(nn.Sigmoid), device=device)
    pair = 2 * 4 * IMAGES if device == "cpu" else None  # lanes past the batch move too where there are more of them
    middle = {key: row for key, row in rows(found).items() if key[1] == "middle"}
    assert {key[0] for key in middle} == {"sigmoid", "tile_out", "tile_in"}
    assert middle["sigmoid", "middle"] == (1, 2 * 4 * IMAGES)
    for kind in ("tile_out", "tile_in"):
        calls, moved = middle[kind, "middle"]
        assert calls == 1 and (moved >= pair if pair else moved > 2 * 4 * IMAGES)
    assert set(rows(found)) - set(middle) == {("tile_in", INPUT)}
    assert WORTH_A_WARNING < found["share"] < 1
    assert found["share"] == pytest.approx(sum(one["share"] for one in found["operators"]))
    shares = [one["share"] for one in found["operators"]]
    assert shares == sorted(shares, reverse=True)


def test_backward_is_its_modules_too() -> None:
    found = rows(report(network(twice=Twice())))
    assert {module for _, module in found} == {"twice", INPUT}
    assert found["concat", "twice"][0] == 1
    assert found["strided_slice", "twice"][0] == 2  # of the gradient
    assert found["tile_in", "twice"][0] == 3  # its output, and both parts of its gradient


def test_what_has_kernels_is_no_fallback() -> None:
    assert set(rows(report(traced()))) == {("tile_in", INPUT)}


def test_what_no_module_does() -> None:
    model = network()
    model.head = nn.Linear(8, 1000)
    found = rows(report(model))
    loss = {"log_softmax", "exp", "multiply", "subtract", "nll_loss_forward", "nll_loss_backward", "sum"}
    assert {operator for operator, module in found if module == OUTSIDE} == loss
    assert {module for _, module in found} == {OUTSIDE, INPUT, "head"}
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    images = rows(report(model, loss=Mse()))
    assert images["tile_out", OUTPUT][0] == 1 and images["tile_in", OUTSIDE][0] == 2  # target, gradient
    assert {module for _, module in images} == {INPUT, OUTPUT, OUTSIDE}


def test_parts_of_a_batch_are_all_counted() -> None:
    model = traced(nn.Sigmoid)
    whole, parts = report(model), report(model, parts=2)
    assert rows(parts) == {key: (2 * calls, 2 * moved) for key, (calls, moved) in rows(whole).items()}
    assert whole["share"] < parts["share"] < 1.01 * whole["share"]  # the optimiser runs once


def test_stored_as_float16_they_are_the_same() -> None:
    model = traced(nn.Sigmoid)
    half = report(model, device="galaxy-s20", options=StepOptions(stored="float16"))
    assert rows(half).keys() == rows(report(model, device="galaxy-s20")).keys()


def test_small_ones_are_left_out() -> None:
    model = network()
    model.head = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 10))
    assert set(rows(report(model))) == {("tile_in", INPUT)}


@pytest.mark.parametrize(
    "name", ["resnet20", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg19_bn", "mobilenet_v2_cifar"))]
)
def test_models_of_ours_have_next_to_none(name: str) -> None:
    graph = trace(models.build(name, classes=10), torch.zeros(32, 3, 32, 32))
    target = get_device("cpu")
    found = reported(graph, tile(graph, {}, target), target, 1)
    assert found["share"] < 0.01
    assert name != "resnet20" or set(rows(found)) == {("tile_in", INPUT)}


def test_rewritten_calls_keep_their_module() -> None:
    model = network()
    half = Profile.uniform("block", 0.5)
    layers = planned_layers(model, input_shape=(3, PLANE, PLANE), batch=BATCH, profile=half)
    specs = {name: layer.problem.sparse for name, layer in layers.items() if layer.problem.sparse is not None}
    assert set(specs) == {"last.weight"}
    graph = traced()
    passes = [SparsifyLayers(specs), OnModule(FuseNormalise()), OnModule(FuseWeightGradients())]
    program = through(StepProgram(graph.module, graph.signature), passes)
    origins = {op_name(expr): origin_of(expr) for _, expr in bindings(program.module, "step") if op_name(expr)}
    assert origins["mest.normalise"] == origins["mest.normalise_backward"] == "norm"
    assert origins["mest.sparse_conv2d"] == origins["mest.sparse_conv2d_backward_weight"] == "last"
    assert origins["mest.conv2d"] == origins["mest.conv2d_backward_weight"] == "first"
    assert origins["mest.linear"] == "head" and origins["relax.nn.log_softmax"] == OUTSIDE
