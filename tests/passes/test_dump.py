"""What a compile leaves behind with a dump: a module after each pass, and each kernel with what it is for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import nn

from mest_compiler.compile import compile_step
from mest_compiler.devices import CpuProfile
from mest_compiler.passes.options import PLAIN, StepOptions
from mest_compiler.sparsity.profile import Profile

from ..whole_step.cases import unoptimised

PASSES = [
    "SparsifyLayers", "FuseNormalise", "FuseWeightGradients", "FuseForwardInputs", "TileBatch",
    "AppendOptimizer", "LegalizeOps", "FoldConstant", "DeadCodeElimination", "ToNonDataflow", "RemovePurityChecking",
    "CallTIRRewrite", "PlanMemory",
]  # fmt: skip


@dataclass(frozen=True)
class Dump:
    """The files of a small step's dump, by their names, and what was logged meanwhile."""

    files: dict[str, str]
    logged: list[str]


@contextmanager
def logging_to(logged: list[str]) -> Iterator[None]:
    """All that the package logs meanwhile."""
    log, handler = logging.getLogger("mest_compiler"), logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


@cache
def dumped(device: str, options: StepOptions = PLAIN) -> Dump:
    """Of a step that is compiled once."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    logged: list[str] = []
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as name, logging_to(logged):
        patch.setattr(CpuProfile, "target", property(unoptimised))
        folder = Path(name)
        compile_step(
            model, input_shape=(3, 8, 8), batch=4, profile=Profile.uniform("block", 0.5), device=device, measure=False,
            options=options, dump=folder,
        )  # fmt: skip
        files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    return Dump(files, logged)


def passes_of(files: dict[str, str]) -> list[str]:
    """Names of the passes in the order of their numbers."""
    return [name.removesuffix(".py").partition("_")[2] for name in sorted(files) if name[0].isdigit()]


def test_a_module_after_each_pass() -> None:
    files, logged = dumped("cpu").files, dumped("cpu").logged
    assert [line.split()[1].rstrip(":") for line in logged if line.startswith("pass ")] == PASSES
    phases = [line.partition(":")[0] for line in logged if not line.startswith("pass ")]
    assert phases == ["trace", "masks", "lower", "build", "compiled the step in " + phases[-1].split()[-2] + " s"]
    assert passes_of(files) == PASSES
    assert "mest.sparse_conv2d" in files["001_SparsifyLayers.py"]
    assert "R.nn.log_softmax" in files["006_AppendOptimizer.py"] and "sgd_compact" in files["006_AppendOptimizer.py"]
    assert "R.nn.log_softmax" not in files["007_LegalizeOps.py"]
    assert "alloc_storage" in files["013_PlanMemory.py"]


def test_a_kernel_says_what_it_is_for() -> None:
    files = dumped("cpu").files
    kernel = files["kernels/block_forward_normalised.py"].splitlines()
    assert kernel[0] == "# kernel of step" and files["kernels/block_forward.py"].startswith("# kernel of predict\n")
    assert kernel[1].startswith("# forward of 3.weight (block): block_forward by block, default knobs {'pixels'")
    assert (
        files["kernels/dense_forward.py"].splitlines()[1].startswith("# forward of 0.weight (dense): dense_forward by")
    )
    assert files["kernels/sgd.py"].startswith("# kernel of step\n")
    assert not any(name.endswith(".cl") for name in files)


def test_opencl_has_its_source_beside_it() -> None:
    files = dumped("opencl").files
    source = files["kernels/block_forward_kernel.cl"]
    assert source.startswith("// block_forward_kernel, a launch of block_forward\n// forward of 3.weight (block): ")
    assert source.count("__kernel void") == 1
    sources = {name for name in files if name.endswith(".cl")}
    assert len(sources) > 15 and all(files[name].count("__kernel void") == 1 for name in sources)


@pytest.mark.slow
def test_micro_batches_have_another_optimiser_pass() -> None:
    assert "AccumulateGradients" in passes_of(dumped("cpu", StepOptions(micro_batch=2)).files)
