"""The lowered steps of larger models: activations stay in batch tiles, clipped ReLUs are part of their batch norm."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from mest_compiler import models
from mest_compiler.devices import local_cpu
from mest_compiler.frontend import trace
from mest_compiler.optimizers import Sgd
from mest_compiler.passes.pipeline import lower
from mest_compiler.passes.step_program import StepProgram

from .programs import kernel_calls

PLANES = {"mobilenet_v2_cifar": 16, "resnet18": 33, "resnet50_cifar": 16}


def shortened(model: nn.Module) -> nn.Module:
    """A network without the blocks that do once more what others do: of those that add their own input, two stay."""
    alike = [
        (parent, name)
        for parent in model.modules()
        if isinstance(parent, nn.Sequential)
        for name, block in parent.named_children()
        if getattr(block, "adds", getattr(block, "downsample", parent) is None)
    ]
    for parent, name in alike[2:]:
        delattr(parent, name)
    return model


@cache
def dense(name: str) -> tuple[StepProgram, int]:
    """A narrow dense step as kernels, and how many batch norms it has; nobody may change it."""
    torch.manual_seed(0)
    name, _, short = name.partition(", ")
    model = models.build(name, classes=10, in_channels=3, width=0.125)
    if short:
        model = shortened(model)
    graph = trace(model, torch.zeros(6, 3, PLANES[name], PLANES[name]))
    norms = sum(isinstance(one, nn.BatchNorm2d) for one in model.modules())
    return lower(graph, {}, Sgd(0.9, 5e-4, False), local_cpu(1)), norms


@pytest.fixture(
    params=[
        "mobilenet_v2_cifar, shortened",
        pytest.param("resnet18, shortened", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.slow) for name in PLANES),
    ]
)
def model(request: pytest.FixtureRequest) -> str:
    """A model's name."""
    return request.param


@pytest.mark.parametrize("function", ["step", "predict"])
def test_layout_changes_once_where_the_image_enters(model: str, function: str) -> None:
    calls = kernel_calls(dense(model)[0].module, function)
    assert calls["tile_in"] == 1 and calls["tile_out"] == 0


def test_norms_are_one_kernel_a_direction(model: str) -> None:
    program, norms = dense(model)
    calls = kernel_calls(program.module, "step")
    inside = calls["dense_forward_normalised"]
    assert 0 < inside == calls["batch_statistics"] and norms > 10
    assert calls["normalise"] + inside == calls["normalise_backward"] == norms
    assert not {name for name in calls if name.startswith(("relu", "clip", "clamp", "batch_norm"))}
    predicted = kernel_calls(program.module, "predict")
    assert predicted["normalise_inference"] == norms


def test_the_mask_of_a_dropout_is_no_tensor() -> None:
    result = dense("mobilenet_v2_cifar, shortened")[0].module
    names = [gvar.name_hint for gvar in result.functions]
    assert sum("dropout" in name for name in names) >= 1
    assert not any("dropout" in name for name in kernel_calls(result, "predict"))
    step = result["step"]
    assert [str(v.ty.dtype) for v in step.params if v.name == "seed"] == ["uint32"]
