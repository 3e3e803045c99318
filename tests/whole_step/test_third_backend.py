"""A kind of devices that nothing in the compiler has heard of: a backend, a device runtime and a profile are all that
a whole step takes."""

from __future__ import annotations

import copy
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from mest_compiler import compile as compiler
from mest_compiler.bench.compiled_network import CompiledStep
from mest_compiler.bench.inputs import step_inputs
from mest_compiler.devices import CpuProfile, local_cpu
from mest_compiler.errors import DeviceError
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.device_runtimes import RUNTIMES
from mest_compiler.runtime.device_runtimes.cpu import CpuRuntime
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.schedules import BACKENDS
from mest_compiler.schedules.cpu.backend import CpuBackend
from mest_compiler.sparsity.profile import Profile

from .cases import unoptimised

KIND, SEED = "other", 1


class OtherProfile(CpuProfile):
    kind = property(lambda self: KIND)
    target = property(unoptimised)


class OtherBackend(CpuBackend):
    kind = KIND
    rewrites = frozenset()


class OtherRuntime(CpuRuntime):
    kind = KIND


def _device(name: str, threads: int | None) -> OtherProfile:
    assert name == KIND
    return OtherProfile(**asdict(local_cpu(threads)))


@pytest.fixture(autouse=True)
def _third_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, KIND, OtherBackend())
    monkeypatch.setitem(RUNTIMES, KIND, OtherRuntime())
    monkeypatch.setattr(compiler, "get_device", _device)


@cache
def compiled() -> tuple[nn.Module, Artifact]:
    """A network and its step, whose kernels are measured."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    half = Profile.uniform("block", 0.5)
    return model, compiler.compile_step(model, input_shape=(3, 8, 8), batch=4, profile=half, device=KIND, threads=1)


def test_a_third_backend_measures_compiles_and_runs(tmp_path: Path) -> None:
    model, artifact = copy.deepcopy(compiled()[0]), compiled()[1]
    functions = {k["function"] for layer in artifact.manifest["layers"].values() for k in layer["kernels"].values()}
    assert functions and not any("normalised" in name for name in functions)  # it has no rewrites
    artifact.save(tmp_path / "step")
    step = CompiledStep(str(tmp_path / "step"), seed=SEED, threads=1)
    step.run()
    assert step.result()["bytes"]["measured_peak"] > 0
    x, y = (torch.from_numpy(array) for given in step_inputs(artifact.manifest, SEED) for array in given.values())
    with torch.no_grad():
        for name, structure in artifact.structures.items():
            model.get_parameter(name).mul_(torch.from_numpy(structure.to_mask()))
        loss = nn.functional.cross_entropy(model(x), y).item()
    assert step.loss == pytest.approx(loss, rel=1e-5)


def test_what_has_no_runtime_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = compiled()[1]
    monkeypatch.delitem(RUNTIMES, KIND)
    with pytest.raises(DeviceError, match="Devices of the kind 'other' cannot be reached: it is opencl or cpu"):
        Trainer(artifact, 1)
