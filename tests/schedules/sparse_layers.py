"""Sparse layers as test cases: convolutions that fit a scheme, hostile masks, and kernels called on poisoned memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm

from mest_compiler.kernels.index_arrays import forms_of, index_arrays
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.schedules.cpu.emit import Vec
from mest_compiler.sparsity.schemes import Scheme, Shape, get_scheme
from mest_compiler.sparsity.structure import Structure, build

from .convolutions import Conv, Data, Draw, dx_buffer, normal, y_buffer
from .tiles import poisoned

SCHEMES = ("unstructured", "block", "block:1x4", "block:8x1", "block:4x4", "block:3x2", "channel", "pattern", "filter")
Arguments = Sequence[tvm.runtime.Tensor]


def fitted(conv: Conv, scheme: str) -> Conv:
    """The convolution with as many more filters and channels as it takes to cut it into blocks."""
    kind = get_scheme(scheme)
    m, n = getattr(kind, "filters", 1), getattr(kind, "channels", 1)
    return replace(conv, filters=max(-(-conv.filters // m), 2) * m, channels=-(-conv.channels // n) * n)


def one_a_site(kind: Scheme, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [rows, columns]: of the wanted units of each site one, drawn at random."""
    sites, kept = kind.site(np.arange(wanted.shape[1])), np.zeros_like(wanted)
    for row, units in enumerate(wanted):
        drawn = rng.permutation(np.flatnonzero(units))
        kept[row, drawn[np.unique(sites[drawn], return_index=True)[1]]] = True
    return kept


def hostile_masks(scheme: str, shape: Shape, seed: int = 0) -> dict[str, np.ndarray]:
    """bool masks [F, C, kh, kw] of a scheme: random ones, and what breaks kernels that count on the usual."""
    rng, kind = np.random.default_rng(seed), get_scheme(scheme)
    rows, columns = kind.grid(shape)
    # Kept channels and filters are one row of few units: something shall be kept, and something not.
    sparse = rng.random((rows, columns)) < (0.3 if rows > 1 else 0.6)
    uneven = rng.random((rows, columns)) < (np.linspace(0, 1, rows)[:, None] if rows > 1 else 0.8)
    gaps, full_row, one_entry = sparse.copy(), sparse.copy(), np.zeros((rows, columns), bool)
    gaps[::2], full_row[-1], one_entry[rows - 1, columns - 1] = False, True, True
    # Every second block of channels is not read at all.
    channels = kind.weights_of(np.arange(rows * columns), shape) // (shape[2] * shape[3]) % shape[1]
    dead = (channels // getattr(kind, "channels", 1) % 2 == 0).all(axis=1).reshape(rows, columns)
    units = {
        "random": sparse, "uneven rows": uneven, "empty rows": gaps, "a full row": full_row, "one entry": one_entry,
        "dead channels": ~dead & (rng.random((rows, columns)) < 0.6), "all": np.ones((rows, columns), bool),
        "none": np.zeros((rows, columns), bool),
    }  # fmt: skip
    return {name: kind.units_to_mask(one_a_site(kind, u, rng).reshape(-1), shape) for name, u in units.items()}


def sparse_conv(conv: Conv, vec: Vec, scheme: str, spare: int = 3) -> LayerProblem:
    """A layer as compiled, with room for all units and `spare` more."""
    return LayerProblem.of(conv.geometry(vec), scheme, get_scheme(scheme).most_kept(conv.weight_shape) + spare)


def with_capacity(layer: LayerProblem, capacity: int) -> LayerProblem:
    """The layer with room for so many entries."""
    return replace(layer, sparse=replace(layer.sparse, capacity=capacity))


@dataclass
class SparseCase:
    """A layer with a mask: its structure, compact values (NaN past the filled part) and index arrays."""

    layer: LayerProblem
    data: Data
    structure: Structure

    @classmethod
    def make(
        cls, conv: Conv, layer: LayerProblem, mask: np.ndarray, parts: int | None = 1, draw: Draw = normal,
        x: np.ndarray | None = None,
    ) -> SparseCase:  # fmt: skip
        """`parts` as in `structure.build`, `x` as in `Data.make`."""
        vec = Vec(layer.geometry.lanes, layer.geometry.dtype)
        return cls(
            layer, Data.make(conv, vec, mask, draw, x), build(mask, layer.sparse.scheme, layer.sparse.capacity, parts)
        )

    def values(self) -> tvm.runtime.Tensor:
        """The weight as [capacity, unit_size]; whoever reads the unfilled tail gets NaN."""
        values = self.structure.compact(self.data.weight)
        values[self.structure.entries :] = np.nan
        return tvm.runtime.tensor(values)

    def index(self, direction: str, family: str, groups: int) -> list[tvm.runtime.Tensor]:
        """The index arrays of a kernel, in argument order."""
        arrays = index_arrays(self.structure, self.layer, {direction: (family, groups)})
        return [tvm.runtime.tensor(arrays[name]) for name in forms_of(self.layer, direction, (family, groups))]

    def run(self, what: str, kernel: Callable[..., None], direction: str, family: str, groups: int) -> np.ndarray:
        """Calls and checks a kernel; gives its whole output."""
        indices = self.index(direction, family, groups)
        if direction == "backward_weight":
            return self._weight_gradient(what, kernel, indices)
        forward = direction == "forward"
        out = y_buffer(self.layer.geometry) if forward else dx_buffer(self.layer.geometry)
        kernel(self.data.x if forward else self.data.dy, self.values(), *indices, out)
        (self.data.check_y if forward else self.data.check_dx)(what, out)
        return out.numpy()

    def _weight_gradient(self, what: str, kernel: Callable[..., None], indices: Arguments) -> np.ndarray:
        """The tail past the entries is nobody's business."""
        s, g = self.structure, self.layer.geometry
        dv = poisoned(s.spec.values_shape, g.dtype)
        kernel(self.data.x, self.data.dy, *indices, dv, poisoned((s.spec.values, g.lanes), g.dtype))
        found = dv.numpy()[: s.entries]
        self.data.check(what, found, s.compact(self.data.dw_ref)[: s.entries], self.data.dw_ref)
        return found
