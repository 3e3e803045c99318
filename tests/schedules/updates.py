"""Optimisers' kernels against PyTorch's own in float64, on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import tvm

from mest_compiler.optimizers import Adam, AdamW, Optimizer, Sgd

from ..examples import example
from .tiles import TOLERANCE

RULES = (
    Sgd(0.9, 5e-4, False), Sgd(0.9, 5e-4, True), Sgd(0.9, 0, True), Sgd(0.5, 0, False), Sgd(0, 1e-2, False), Sgd(0, 0),
    Adam(), Adam((0.8, 0.95), 1e-6, 1e-2), AdamW(), AdamW((0.9, 0.99), 1e-8, 0.0),
    example("lion").Lion((0.8, 0.9), 0.1),
)  # fmt: skip
LR, STEPS = 0.1, 3
Kernel = Callable[..., None]


def reference(rule: Optimizer, weight: np.ndarray, gradients: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Weight and slots in float64 after PyTorch's steps."""
    w = torch.from_numpy(weight.astype(np.float64)).requires_grad_()
    optimizer = rule.torch([w])
    optimizer.param_groups[0]["lr"] = LR
    for g in gradients:
        w.grad = torch.from_numpy(g.astype(np.float64))
        optimizer.step()
    return [w.detach().numpy(), *(optimizer.state[w][rule.torch_keys[slot]].numpy() for slot in rule.slots)]


def data(shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """A weight, and a gradient a step."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape).astype(dtype), [rng.standard_normal(shape).astype(dtype) for _ in range(STEPS)]


def steps(
    kernel: Kernel, rule: Optimizer, weight: np.ndarray, gradients: Sequence[np.ndarray], *rest: np.ndarray
) -> list[np.ndarray]:
    """Weight and slots after the kernel's steps; the slots are not numbers where the weight is none. rest: arguments
    behind the hypers."""
    zeros = np.where(np.isnan(weight), weight, 0)
    state = [tvm.runtime.tensor(array) for array in (weight, *(zeros for _ in rule.slots))]
    for number, g in enumerate(gradients):
        hyper = np.asarray(rule.hyper_values(number + 1, LR), weight.dtype)
        kernel(*state, *map(tvm.runtime.tensor, (g, hyper, *rest)))
    return [tensor.numpy() for tensor in state]


def check_dense(kernel: Kernel, rule: Optimizer, shape: tuple[int, ...], dtype: str) -> None:
    """Fails unless the kernel changes whole tensors as PyTorch does."""
    weight, gradients = data(shape, dtype)
    found, wanted = steps(kernel, rule, weight, gradients), reference(rule, weight, gradients)
    for name, one, other in zip(("weight", *rule.slots), found, wanted, strict=True):
        what, tolerance = f"{name} of shape {shape}", TOLERANCE[dtype]
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance, err_msg=what)


def check_shared(kernel: Kernel, rule: Optimizer, shape: tuple[int, ...], dtype: str) -> None:
    """Fails unless the kernel divides gradients by a weight."""
    weight, gradients = data(shape, dtype)
    found = steps(kernel, rule, weight, [2.5 * g for g in gradients], np.asarray(2.5, dtype))
    for one, other in zip(found, reference(rule, weight, gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def check_compact(kernel: Kernel, rule: Optimizer, capacity: int, unit_size: int, entries: str) -> None:
    """Fails unless the kernel changes what is filled, however much that is, and nothing else."""
    for filled in sorted({0, 1, capacity // 2, capacity - 1, capacity}):
        weight, gradients = data((capacity, unit_size), "float32")
        wanted = reference(rule, weight[:filled], [g[:filled] for g in gradients])
        weight[filled:] = np.nan
        for g in gradients:
            g[filled:] = 7
        found = steps(kernel, rule, weight, gradients, np.array([filled], entries))
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one[:filled], other, rtol=2e-5, atol=2e-5)
            assert np.isnan(one[filled:]).all()
