"""SGD kernels on OpenCL against torch.optim.SGD in float64: dense and compact, tails of quads, several work-groups."""

import numpy as np
import pytest
import torch
import tvm

from mest_compiler.kernels.sgd import Sgd
from mest_compiler.schedules.opencl import sgd
from mest_compiler.schedules.opencl.emit import Vec
from mest_compiler.schedules.opencl.planes import GROUP

from ..tiles import TOLERANCE
from .launching import compile_kernels

RULES = (Sgd(0.9, 5e-4, False), Sgd(0.9, 5e-4, True), Sgd(0.9, 0, True), Sgd(0.5, 0, False), Sgd(0, 1e-2, False))
LR, STEPS = 0.1, 3


def reference(rule: Sgd, weight: np.ndarray, gradients: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Weight and momentum in float64 after PyTorch's steps."""
    w = torch.from_numpy(weight.astype(np.float64)).requires_grad_()
    optimizer = torch.optim.SGD([w], LR, rule.momentum, weight_decay=rule.weight_decay, nesterov=rule.nesterov)
    for g in gradients:
        w.grad = torch.from_numpy(g.astype(np.float64))
        optimizer.step()
    momentum = optimizer.state[w].get("momentum_buffer")
    return w.detach().numpy(), momentum.numpy() if momentum is not None else None


def data(shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """A weight, and a gradient a step."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape).astype(dtype), [rng.standard_normal(shape).astype(dtype) for _ in range(STEPS)]


SHAPES = ((), (3,), (64,), (3, 65), (8, 4 * GROUP), (4 * GROUP + 5,))


def rules() -> list:
    """Two rules in the default suite, all in the slow one."""
    pairs = [(rule, dtype) for rule in RULES for dtype in ("float32", "float64")]
    return [pytest.param(*pair, marks=() if i in (0, 3) else pytest.mark.slow) for i, pair in enumerate(pairs)]


@pytest.mark.parametrize(("rule", "dtype"), rules())
def test_dense(rule: Sgd, dtype: str) -> None:
    vec = Vec(64, dtype)
    for shape, kernel in compile_kernels({shape: sgd.dense(rule, shape, vec, 1) for shape in SHAPES}).items():
        weight, gradients = data(shape, dtype)
        w, v = tvm.runtime.tensor(weight), tvm.runtime.tensor(np.zeros(shape, dtype))
        for g in gradients:
            kernel(w, v, tvm.runtime.tensor(g), tvm.runtime.tensor(np.asarray(LR, dtype)))
        new, momentum = reference(rule, weight, gradients)
        what, tolerance = f"shape {shape}", TOLERANCE[dtype]
        np.testing.assert_allclose(w.numpy(), new, rtol=tolerance, atol=tolerance, err_msg=what)
        if momentum is not None:
            np.testing.assert_allclose(v.numpy(), momentum, rtol=tolerance, atol=tolerance, err_msg=what)


@pytest.mark.parametrize(("unit_size", "dtype"), [(1, "int32"), (4, "uint16"), (27, "int32")])
@pytest.mark.parametrize("capacity", [1, 13, 2 * GROUP])
def test_compact_updates_what_is_filled_and_nothing_else(capacity: int, unit_size: int, dtype: str) -> None:
    vec, rule = Vec(64, "float32"), RULES[1]
    kernel = compile_kernels({"sgd": sgd.compact(rule, capacity, unit_size, dtype, vec, 1)})["sgd"]
    for entries in sorted({0, 1, capacity // 2, capacity - 1, capacity}):
        weight, gradients = data((capacity, unit_size), "float32")
        new, momentum = reference(rule, weight[:entries], [g[:entries] for g in gradients])
        weight[entries:] = np.nan
        w, v = tvm.runtime.tensor(weight), tvm.runtime.tensor(np.where(np.isnan(weight), weight, 0))
        filled = tvm.runtime.tensor(np.array([entries], dtype))
        for g in gradients:
            g[entries:] = 7
            kernel(w, v, tvm.runtime.tensor(g), tvm.runtime.tensor(np.asarray(LR, "float32")), filled)
        np.testing.assert_allclose(w.numpy()[:entries], new, rtol=1e-5, atol=1e-5)
        if entries:
            np.testing.assert_allclose(v.numpy()[:entries], momentum, rtol=1e-5, atol=1e-5)
        assert np.isnan(w.numpy()[entries:]).all() and np.isnan(v.numpy()[entries:]).all()
