"""The lowered steps of larger models: activations stay in batch tiles, clipped ReLUs are part of their batch norm."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from mest_compiler import models
from mest_compiler.devices import local_cpu
from mest_compiler.frontend import trace
from mest_compiler.optimizers import Sgd
from mest_compiler.passes.pipeline import lower
from mest_compiler.passes.step_program import StepProgram

from .programs import kernel_calls

PLANES = {"mobilenet_v2_cifar": 16, "resnet18": 33, "resnet50_cifar": 16}
NORMS = {"mobilenet_v2_cifar": 52, "resnet18": 20, "resnet50_cifar": 53}


@cache
def dense(name: str) -> StepProgram:
    """A narrow dense step as kernels; nobody may change it."""
    torch.manual_seed(0)
    model = models.build(name, classes=10, in_channels=3, width=0.125)
    graph = trace(model, torch.zeros(6, 3, PLANES[name], PLANES[name]))
    return lower(graph, {}, Sgd(0.9, 5e-4, False), local_cpu(1))


@pytest.fixture(params=["mobilenet_v2_cifar", "resnet18", pytest.param("resnet50_cifar", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest) -> str:
    """A model's name."""
    return request.param


@pytest.mark.parametrize("function", ["step", "predict"])
def test_layout_changes_once_where_the_image_enters(model: str, function: str) -> None:
    calls = kernel_calls(dense(model).module, function)
    assert calls["tile_in"] == 1 and calls["tile_out"] == 0


def test_norms_are_one_kernel_a_direction(model: str) -> None:
    calls = kernel_calls(dense(model).module, "step")
    inside = calls["dense_forward_normalised"]
    assert 0 < inside == calls["batch_statistics"]
    assert calls["normalise"] + inside == calls["normalise_backward"] == NORMS[model]
    assert not {name for name in calls if name.startswith(("relu", "clip", "clamp", "batch_norm"))}
    predicted = kernel_calls(dense(model).module, "predict")
    assert predicted["normalise_inference"] == NORMS[model]


def test_the_mask_of_a_dropout_is_no_tensor() -> None:
    result = dense("mobilenet_v2_cifar").module
    names = [gvar.name_hint for gvar in result.functions]
    assert sum("dropout" in name for name in names) >= 1
    assert not any("dropout" in name for name in kernel_calls(result, "predict"))
    step = result["step"]
    assert [str(v.ty.dtype) for v in step.params if v.name == "seed"] == ["uint32"]
