"""The data of a comparison: every contestant makes it in its own process from the same seed, so all see the
same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mest_compiler.bench.layer_spec import LayerSpec
from mest_compiler.errors import BenchError
from mest_compiler.sparsity.schemes import Scheme, Shape, get_scheme

# small, since it is the same batch over and over: nothing may diverge and slow the arithmetic down
LEARNING_RATE = 1e-3
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


@dataclass(frozen=True)
class LayerInputs:
    """Arrays of one layer, float32: x [N, C, H, W], weight [F, C, kh, kw] (zero where `mask` is False),
    output gradient dy [N, F, OH, OW]; mask bool [F, C, kh, kw]."""

    x: np.ndarray
    weight: np.ndarray
    mask: np.ndarray
    dy: np.ndarray


def layer_inputs(
    layer: LayerSpec, *, batch: int, seed: int, scheme: str, sparsity: float, uneven: bool = False
) -> LayerInputs:
    """Standard normal x and dy, weights of variance 1 / fan-in, and a random mask of `scheme` (all True at 0), with
    equally long rows or `uneven` ones."""
    rng = np.random.default_rng(seed)
    fan_in = layer.channels * layer.kernel**2
    x = rng.standard_normal((batch, layer.channels, layer.height, layer.width), dtype=np.float32)
    weight = rng.standard_normal(layer.weight_shape, dtype=np.float32) / np.float32(fan_in**0.5)
    dy = rng.standard_normal((batch, layer.filters, *layer.out_plane), dtype=np.float32)
    mask = np.ones(layer.weight_shape, dtype=bool)
    if sparsity > 0:
        kind = get_scheme(scheme)
        mask = (uneven_mask if uneven else type(kind).random_mask)(kind, layer.weight_shape, sparsity, rng)
    return LayerInputs(x, np.where(mask, weight, np.float32(0)), mask, dy)


def uneven_mask(kind: Scheme, shape: Shape, sparsity: float, rng: np.random.Generator) -> np.ndarray:
    """Random mask whose rows grow longer from the first to the last, by 7 to 1: what a mutation by magnitude can lead
    to, and the worst for threads that share out rows as they come."""
    ramp = np.linspace(0.25, 1.75, kind.grid(shape)[0])
    quotas = np.round(ramp / ramp.sum() * kind.kept_units(shape, sparsity)).astype(np.int64)
    return kind.mask_of_rows(shape, quotas, rng)


def step_inputs(manifest: Mapping[str, Any], seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """One batch of what an artifact's step takes: inputs and targets [N, ...] by name.

    Standard normal inputs; labels of the model's classes, other targets in [0, 1), which every loss takes. Of a network
    of images the numbers are those of `network_inputs`.

    Raises:
        BenchError: whole numbers are wanted whose range nobody knows, such as words by their numbers.
    """
    rng, batch = np.random.default_rng(seed), manifest["batch"]

    def drawn(kind: str, floats: Callable[..., np.ndarray], most: int | None) -> dict[str, np.ndarray]:
        found = {}
        for name, (shape, dtype) in manifest[kind].items():
            if np.dtype(dtype).kind == "f":
                found[name] = floats((batch, *shape), dtype=np.float32)
            elif most is None:
                raise BenchError(
                    f"The step takes {dtype} as {name!r}, and which of them mean something is not known: time it from "
                    "Python, with examples of your own."
                )
            else:
                found[name] = rng.integers(0, most, (batch, *shape), dtype=np.int64)
        return found

    return drawn("inputs", rng.standard_normal, None), drawn("targets", rng.random, manifest["classes"])


def network_inputs(
    input_shape: tuple[int, int, int], *, classes: int, batch: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """One batch: x float32 [N, C, H, W], standard normal, and labels int64 [N]."""
    forms = {"inputs": {"x": (input_shape, "float32")}, "targets": {"y": ((), "int64")}}
    inputs, targets = step_inputs({**forms, "batch": batch, "classes": classes}, seed)
    return inputs["x"], targets["y"]
