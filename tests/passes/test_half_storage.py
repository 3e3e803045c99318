"""Which tensors of a step lie in memory as float16 on OpenCL devices, and that their kernels follow."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
import tvm
from torch import nn
from tvm import tirx
from tvm.tirx.buffer import BufferType

from mest_compiler.devices import CpuProfile, OpenClProfile, get_device, local_cpu
from mest_compiler.errors import DeviceError, MemoryLimitError
from mest_compiler.frontend import TrainingGraph, trace
from mest_compiler.passes.fit_memory import Fitted, Fitter
from mest_compiler.passes.half_storage import HalfStorage
from mest_compiler.passes.options import PLAIN, StepOptions
from mest_compiler.passes.pipeline import tile
from mest_compiler.passes.program import Program, op_name, relax_functions
from mest_compiler.passes.step_program import StepProgram
from mest_compiler.sparsity.layer_spec import SparseLayerSpec

from .test_lowered_steps import RULE

HALF = StepOptions(stored="float16")
DEVICE = get_device("opencl")
BATCH = 4
LAYERS = {
    "second.weight": SparseLayerSpec("block", (8, 8, 3, 3), 4),
    "hidden.weight": SparseLayerSpec("unstructured", (8, 8, 1, 1), 20),
    "last.weight": SparseLayerSpec("unstructured", (8, 8, 1, 1), 20),
}  # fmt: skip
NARROW = {"tile_in", "dense_forward", "normalise", "normalise_inference"}
WIDE = {"features_in", "features_out", "block_backward_data", "plane_broadcast"}


class Net(nn.Module):
    """Two convolutions with batch norms and a residual, and two linear layers: [N, 3, 6, 6] -> logits [N, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.hidden, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norms[0](self.first(x)))
        x = F.relu(self.norms[1](self.second(x)) + x)
        return self.last(F.relu(self.hidden(x.mean((2, 3)))))


@cache
def traced(dtype: torch.dtype = torch.float32) -> TrainingGraph:
    torch.manual_seed(0)
    images = torch.zeros(BATCH, 3, 6, 6, dtype=dtype)
    return trace(Net().to(dtype), images)


@cache
def program(options: StepOptions = HALF, dtype: torch.dtype = torch.float32) -> StepProgram:
    """The tiled step; nobody may change it."""
    return tile(traced(dtype), LAYERS, DEVICE, options)


def module(options: StepOptions = HALF, dtype: torch.dtype = torch.float32) -> tvm.IRModule:
    """Its functions."""
    return program(options, dtype).module


def calls(mod: tvm.IRModule, function: str) -> list[tuple[str, tirx.PrimFunc, list[tvm.ir.Type]]]:
    """(name, kernel, types of its arguments and outputs) of every call."""
    found = []
    for var, expr in Program.of(mod[function]).bindings:
        if op_name(expr).startswith("relax.call_tir"):
            outputs = list(var.ty.fields) if hasattr(var.ty, "fields") else [var.ty]
            inplace = list(getattr(expr.attrs, "inplace_indices", [-1] * len(outputs)))
            own = [ty for ty, place in zip(outputs, inplace, strict=True) if int(place) < 0]
            name = expr.args[0].name_hint
            found.append((name.rstrip("0123456789"), mod[name], [f.ty for f in expr.args[1].fields] + own))
    return found


@pytest.mark.parametrize("function", ["step", "predict"])
def test_what_forward_computes_of_images_is_narrow(function: str) -> None:
    for name, _, types in calls(module(), function):
        activations = [str(ty.dtype) for ty in types if len(ty.shape) == 3]
        if name in NARROW:
            assert set(activations) == {"uint16"}, name
        if name == "block_forward":  # of a convolution, and of linear layers
            tiled = [int(ty.shape[1]) for ty in types if len(ty.shape) == 3]
            assert set(activations) == {"uint16" if tiled[0] > 8 else "float32"}
        if name in WIDE:
            assert set(activations) == {"float32"}, name  # gradients, and features of linear layers
        if name == "normalise_backward":
            narrow = [len(ty.shape) == 3 and str(ty.dtype) == "uint16" for ty in types]
            assert 1 <= sum(narrow) <= 2 and not narrow[0] and not narrow[-1]  # x, and z beside a residual
        assert not any(str(ty.dtype) == "uint16" and len(ty.shape) == 2 for ty in types)


@pytest.mark.parametrize("function", ["step", "predict"])
def test_kernels_take_what_they_are_called_with(function: str) -> None:
    found = calls(module(), function)
    assert len(found) > 5
    for name, kernel, types in found:
        for param, ty in zip(kernel.params, types, strict=True):
            if isinstance(param.ty, BufferType):
                assert str(param.ty.dtype) == str(ty.dtype), name


def test_what_comes_in_and_out_stays() -> None:
    for name, before in relax_functions(module(PLAIN)):
        after = module()[name]
        assert [p.ty for p in after.params] == [p.ty for p in before.params]
        assert after.ret_ty == before.ret_ty


def test_once_more_changes_nothing() -> None:
    again = HalfStorage(DEVICE)(program()).module
    kernels = [
        {gvar.name_hint: f for gvar, f in mod.functions.items() if isinstance(f, tirx.PrimFunc)}
        for mod in (again, module())
    ]
    assert kernels[0].keys() == kernels[1].keys()
    for name, kernel in kernels[0].items():
        tvm.ir.assert_structural_equal(kernel, kernels[1][name], map_free_vars=True)
    for function in ("step", "predict"):
        found, wanted = (
            [(name, list(map(str, types))) for name, _, types in calls(mod, function)] for mod in (again, module())
        )
        assert found == wanted


def test_steps_in_float64_have_none() -> None:
    wide = torch.float64
    tvm.ir.assert_structural_equal(module(HALF, wide), module(PLAIN, wide), map_free_vars=True)


def test_a_kernel_of_both_kinds_has_two_copies() -> None:
    """What forward and a linear layer call is one kernel with other dtypes: each has its own, the names stay."""
    names = {gvar.name_hint for gvar in module().functions}
    assert {gvar.name_hint for gvar in module(PLAIN).functions} <= names


def fitted(options: StepOptions) -> Fitted:
    return Fitter(LAYERS, RULE, DEVICE, options).fit(traced(), BATCH, lambda _: traced())


def test_half_of_the_bytes_are_planned() -> None:
    narrow, wide = fitted(HALF), fitted(PLAIN)
    assert (narrow.describe()["stored"], wide.describe()["stored"]) == ("float16", "float32")
    assert narrow.memory["activations"] < 0.56 * wide.memory["activations"]
    assert narrow.peak < wide.peak
    same = ("weights", "gradients", "optimizer", "indices", "data")
    assert [narrow.memory[kind] for kind in same] == [wide.memory[kind] for kind in same]


def test_what_is_computed_again_is_narrow_too() -> None:
    with pytest.raises(MemoryLimitError) as caught:
        fitted(replace(HALF, memory_limit=1, micro_batch=BATCH))
    found = fitted(replace(HALF, memory_limit=caught.value.smallest, micro_batch=BATCH))
    assert found.schedule.dropped and found.peak < fitted(HALF).peak
    repeated = [types for name, _, types in calls(found.lowered.module, "step") if name == "normalise_again"]
    assert repeated and all(str(ty.dtype) == "uint16" for types in repeated for ty in types if len(ty.shape) == 3)


@pytest.mark.parametrize(
    ("device", "stored", "sentence"),
    [
        (local_cpu(1), "float16", "cannot be stored as float16 on cpu devices, which have float32 and bfloat16"),
        (DEVICE, "bfloat16", "cannot be stored as bfloat16 on opencl devices, which have float32 and float16"),
        (OpenClProfile("old", halves=False), "float16", "float16 on old, whose profile says 'halves: false'"),
    ],
)
def test_refused(device: CpuProfile | OpenClProfile, stored: str, sentence: str) -> None:
    with pytest.raises(DeviceError, match=sentence):
        tile(traced(), LAYERS, device, StepOptions(stored=stored))
