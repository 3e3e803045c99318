"""All weight gradients of a layer on OpenCL, with any knobs, and how they are called on poisoned memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.schedules.opencl import (
    block_gradient,
    body_gradient,
    dense_gradient,
    planes_gradient,
)
from mest_compiler.schedules.opencl.emit import Vec
from mest_compiler.schedules.opencl.weight_gradient import WeightGradientKnobs

from ..convolutions import Data
from ..sparse_layers import SparseCase
from ..tiles import poisoned

DIRECTION = "backward_weight"
PHONE = OpenClProfile("a phone", work_group=1024, local_bytes=32768)
VECTORS = (Vec(8, "float32"), Vec(16, "float64"), Vec(64, "float32"), Vec(8, "float64"))
KNOBS = (
    WeightGradientKnobs(entries=3, pixels=8, rows=1, shares=8),
    WeightGradientKnobs(entries=2, pixels=3, rows=3, shares=2, spread=2),
    WeightGradientKnobs(entries=1, pixels=6, rows=2, shares=1, spread=3, splits=3),
    WeightGradientKnobs(entries=5, pixels=4, rows=5, shares=3, splits=2),
)
BLOCKS = (4, 3, 1)  # filters of an item, where kernels have that knob


@dataclass(frozen=True)
class Gradient:
    """A generated kernel of a layer, and the shape of its workspace."""

    family: str
    knobs: WeightGradientKnobs
    make: Callable[[], tirx.PrimFunc]
    room: tuple[int, ...] | None

    def __str__(self) -> str:
        return f"{self.family or 'dense'} {self.knobs}"


def default_gradient(layer: LayerProblem, family: str) -> Gradient:
    """The kernel with its default knobs for a phone."""
    if family == "block":
        knobs = block_gradient.default_knobs(PHONE, layer)
    elif family == "planes":
        knobs = planes_gradient.default_knobs(PHONE, layer)
    else:
        entries = next(iter(FAMILIES[family].index_arrays(layer, DIRECTION, 1).values())).length
        knobs = body_gradient.default_knobs(PHONE, layer, FAMILIES[family].bodies(layer.geometry), entries)
    block = planes_gradient.default_block(layer) if family == "planes" else 1
    return sparse_gradient(layer, family, knobs, block)


def sparse_gradient(layer: LayerProblem, family: str, knobs: WeightGradientKnobs, block: int) -> Gradient:
    """The kernel of a family; `block`: filters of an item of kept planes."""
    dtypes = FAMILIES[family].dtypes(layer, DIRECTION, knobs.groups)
    bodies = getattr(FAMILIES[family], "bodies", lambda geometry: None)(layer.geometry)
    module, make = {
        "block": (block_gradient, lambda: block_gradient.outer(layer, knobs, dtypes)),
        "planes": (planes_gradient, lambda: planes_gradient.kept(layer, block, knobs, dtypes)),
    }.get(family, (body_gradient, lambda: body_gradient.dots(layer, bodies, knobs, dtypes)))
    return Gradient(family, knobs, make, module.workspace(layer, knobs))


def dense_gradient_of(g: ConvGeometry, block: int, knobs: WeightGradientKnobs) -> Gradient:
    """The dense kernel."""
    return Gradient("", knobs, lambda: dense_gradient.dense(g, block, knobs), dense_gradient.workspace(g, knobs))


def run_sparse(what: str, gradient: Gradient, kernel: Callable[..., None], case: SparseCase) -> np.ndarray:
    """Calls and checks a kernel; gives the gradient. What is past the entries must be left alone."""
    s, dtype = case.structure, case.layer.geometry.dtype
    dv = poisoned(s.spec.values_shape, dtype)
    indices = case.index(DIRECTION, gradient.family, gradient.knobs.groups)
    kernel(case.data.x, case.data.dy, *indices, dv, *_workspace(gradient, dtype))
    found = dv.numpy()
    case.data.check(what, found[: s.entries], s.compact(case.data.dw_ref)[: s.entries], case.data.dw_ref)
    assert np.isnan(found[s.entries :]).all(), what
    return found[: s.entries]


def run_dense(what: str, gradient: Gradient, kernel: Callable[..., None], data: Data) -> np.ndarray:
    """Calls and checks a dense kernel; gives the gradient."""
    dw = poisoned(data.weight.shape, data.g.dtype)
    kernel(data.x, data.dy, dw, *_workspace(gradient, data.g.dtype))
    data.check(what, dw.numpy(), data.dw_ref)
    return dw.numpy()


def _workspace(gradient: Gradient, dtype: str) -> Sequence:
    return [poisoned(gradient.room, dtype)] if gradient.room else []
