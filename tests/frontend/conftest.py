"""Dense compilation of a traced step with the plain definitions, and its comparison with PyTorch."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import relax

from mest_compiler.devices import local_cpu
from mest_compiler.frontend import TrainingGraph, plain_legalizations, trace
from mest_compiler.losses import CrossEntropy

from .dropouts import seed_dropouts, with_reference_dropouts

# A bias in front of a batch norm has gradient zero up to rounding: errors are measured against at least this
# fraction of the largest gradient.
GRADIENT_FLOOR = 1e-3
SEED = 4_000_000_123  # of the dropouts


def compile_plain(module: tvm.IRModule) -> relax.VirtualMachine:
    t = relax.transform
    passes = [
        t.LegalizeOps(plain_legalizations()),
        t.AnnotateTIROpPattern(),
        t.FoldConstant(),
        t.FuseOps(),
        t.FuseTIR(),
        t.DeadCodeElimination(),
        t.RewriteDataflowReshape(),
        t.ToNonDataflow(),
        t.RemovePurityChecking(),
        t.CallTIRRewrite(),
        t.StaticPlanBlockMemory(),
        t.LowerAllocTensor(),
        t.KillAfterLastUse(),
        t.LowerRuntimeBuiltin(),
        t.ComputePrimValue(),
        t.VMShapeLower(),
        t.AttachGlobalSymbol(),
    ]
    # Unoptimised: a third of the compile time, and LLVM's vectoriser breaks some tiny float64 matmuls here.
    target = tvm.target.Target({**local_cpu().llvm, "opt-level": 0})
    with target:
        lowered = tvm.transform.Sequential(passes)(module)
        return relax.VirtualMachine(relax.build(lowered, target, relax_pipeline=None), tvm.cpu())


def relative_error(found: np.ndarray, wanted: np.ndarray, floor: float = 1e-30) -> float:
    if wanted.size == 0:
        return 0.0
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), floor))


def check_against_torch(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, tolerance: float = 1e-9, label_smoothing: float = 0.0
) -> TrainingGraph:
    """Run step and predict once and compare everything they return with PyTorch."""
    with torch.no_grad():  # running statistics that are not those of a new model
        model.train()(x * 2 + 1)
    graph = trace(model, x, CrossEntropy(label_smoothing))
    machine = compile_plain(graph.module)
    state = [tvm.runtime.tensor(graph.state[name]) for name in (*graph.parameters, *graph.buffers)]
    x_, y_ = tvm.runtime.tensor(x.numpy()), tvm.runtime.tensor(y.numpy())
    seed = [tvm.runtime.tensor(np.asarray(SEED, np.uint32))] if graph.seeded else []
    found = [value.numpy() for value in machine["step"](*state, x_, y_, *seed)]

    reference = with_reference_dropouts(model)
    seed_dropouts(reference, SEED)
    logits = reference(x)
    loss = nn.functional.cross_entropy(logits, y, label_smoothing=label_smoothing)
    loss.backward()
    parameters, buffers = dict(reference.named_parameters()), dict(reference.named_buffers())
    assert graph.parameters == tuple(parameters) and graph.buffers == tuple(buffers)
    assert len(found) == 2 + len(parameters) + len(buffers)
    largest = max(p.grad.abs().max().item() for p in parameters.values())
    wanted = {
        "loss": (loss, 1e-30),
        "logits": (logits, 1e-30),
        **{f"gradient of {name}": (p.grad, GRADIENT_FLOOR * largest) for name, p in parameters.items()},
        **{f"new {name}": (b, 1e-30) for name, b in buffers.items()},
    }
    for value, (what, (tensor, floor)) in zip(found, wanted.items(), strict=True):
        assert value.dtype == tensor.detach().numpy().dtype, what
        assert value.shape == tuple(tensor.shape), what
        assert relative_error(value, tensor.detach().numpy(), floor) <= tolerance, what
    predicted = machine["predict"](*state, x_).numpy()
    with torch.no_grad():
        evaluated = copy.deepcopy(model).eval()(x).numpy()
    assert relative_error(predicted, evaluated) <= tolerance
    return graph


@pytest.fixture(name="compile_plain")
def _compile_plain() -> Callable[[tvm.IRModule], relax.VirtualMachine]:
    return compile_plain


@pytest.fixture(name="check_against_torch")
def _check_against_torch() -> Callable[..., TrainingGraph]:
    return check_against_torch


@pytest.fixture
def batch() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """batch(model dtype, channels, size) -> float images [4, channels, size, size] and labels [4]."""

    def make(
        dtype: torch.dtype = torch.float64, channels: int = 3, size: int = 8, examples: int = 4
    ) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(examples, channels, size, size, generator=generator, dtype=dtype)
        return x, torch.randint(0, 10, (examples,), generator=generator)

    return make


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)
