"""What Relax's legalizations leave of a step, bound to work-items: the same numbers as the loops on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import relax, te, tirx

from mest_compiler.errors import DeviceError
from mest_compiler.frontend import trace
from mest_compiler.frontend.ops import plain_legalizations
from mest_compiler.kernels.geometry import Plane
from mest_compiler.passes.program import relax_functions
from mest_compiler.schedules.opencl import elementwise, plain
from mest_compiler.schedules.opencl.emit import Vec

from ..tiles import TOLERANCE, poisoned
from ..tiles import compile_kernels as compile_for_cpu
from .launching import PHONE, compile_kernels


class Classifier(nn.Module):
    """Linear layers: what is left of a step once its convolutions and their like are taken out."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.out = nn.Linear(hidden or features, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of x [N, C, H, W]."""
        x = x.flatten(1)
        return self.out(x if self.hidden is None else torch.relu(self.hidden(x)))


def loops(dtype: str, ordered: bool, batch: int, features: int, hidden: int, classes: int) -> dict[str, tirx.PrimFunc]:
    """The functions of a training step of a classifier."""
    kind = getattr(torch, dtype)
    x = torch.zeros(batch, features, 1, 1, dtype=kind)
    module = trace(Classifier(features, hidden, classes).to(kind), x).module
    passes = [
        relax.transform.LegalizeOps(plain_legalizations(ordered)),
        relax.transform.DeadCodeElimination([name for name, _ in relax_functions(module)]),
    ]
    module = tvm.transform.Sequential(passes)(module)
    return {gvar.name_hint: f for gvar, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}


def arguments(function: tirx.PrimFunc, outputs: int, classes: int) -> list[tvm.runtime.Tensor]:
    """Random inputs, poisoned outputs (the last arguments)."""
    rng, made = np.random.default_rng(0), []
    for i, p in enumerate(function.params):
        shape, dtype = tuple(int(n) for n in p.ty.shape), str(p.ty.dtype)
        if i >= len(function.params) - outputs:
            made.append(poisoned(shape, dtype))
        elif dtype.startswith("int"):
            made.append(tvm.runtime.tensor(rng.integers(0, classes, shape).astype(dtype)))
        else:
            made.append(tvm.runtime.tensor(np.asarray(rng.random(shape), dtype)))
    return made


def same(functions: dict[str, tirx.PrimFunc], classes: int, dtype: str) -> None:
    """Fails unless functions give on the device what their loops give on the CPU."""
    bound = plain.bind(tvm.IRModule(functions), PHONE)
    there = compile_kernels({gvar.name_hint: f for gvar, f in bound.functions.items()})
    here: dict[str, Callable] = compile_for_cpu(functions)
    for name, function in functions.items():
        outputs = 2 if name.startswith("nll_loss_forward") else 1
        wanted, found = (arguments(function, outputs, classes) for _ in range(2))
        here[name](*wanted)
        there[name](*found)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), TOLERANCE[dtype], TOLERANCE[dtype], err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        ("float64", (5, 7, 0, 10)),
        pytest.param("float32", (64, 512, 19, 1000), marks=pytest.mark.slow),
    ],
)
def test_a_classifier_and_its_loss(dtype: str, sizes: tuple[int, ...]) -> None:
    functions = loops(dtype, False, *sizes)
    assert {"linear", "linear_backward_weight", "log_softmax", "nll_loss_forward"} <= set(functions)
    same(functions, sizes[-1], dtype)


@pytest.mark.parametrize("shape", [(1, 1000), (3, 1021), (70, 600)])
def test_long_sums(shape: tuple[int, int]) -> None:
    x, k = te.placeholder(shape, "float64", "x"), te.reduce_axis((0, shape[1]), "k")
    total = te.compute(shape[:1], lambda i: te.sum(x[i, k], axis=k), "total")
    same({"total": te.create_prim_func([x, total])}, 1, "float64")


@pytest.mark.parametrize("factor", [1 / 0.7, -1 / 3, 1e-30 / 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_constants_are_written_to_the_last_bit(factor: float, dtype: str) -> None:
    x = te.placeholder((70,), dtype, "x")
    scaled = te.compute(x.shape, lambda i: x[i] * tirx.const(factor, dtype), "scaled")
    bound = plain.bind(tvm.IRModule({"scaled": te.create_prim_func([x, scaled])}), PHONE)
    given, made = np.random.default_rng(0).random(70).astype(dtype), poisoned((70,), dtype)
    compile_kernels({"scaled": bound["scaled"]})["scaled"](tvm.runtime.tensor(given), made)
    np.testing.assert_array_equal(made.numpy(), given * np.asarray(factor, dtype))


def test_generated_kernels_stay_as_they_are() -> None:
    vec, plane = Vec(8, "float32"), Plane(4, 4)
    kernel = elementwise.tile_in(8, 3, plane, vec)
    module = tvm.IRModule({"kernel": kernel})
    assert plain.bind(module, PHONE)["kernel"].same_as(module["kernel"])


def test_loops_in_another_order_are_refused() -> None:
    functions = loops("float32", True, 4, 7, 0, 10)
    with pytest.raises(DeviceError, match="loops of linear"):
        plain.bind(tvm.IRModule(functions), PHONE)
