"""What the tests of convolutions with batch norm beside them share: their arguments, and what they must leave behind in
float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tvm

from mest_compiler.kernels.fusion import SUMS, BackwardSums
from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.schedules.cpu.emit import Vec

from .tiles import TOLERANCE, bordered, poisoned, tile


def sums_buffer(g: ConvGeometry, planes: int) -> tvm.runtime.Tensor:
    """Poisoned room for the sums of an output."""
    return poisoned((g.tiles, planes * SUMS.size, g.lanes), g.dtype)


def by_example(sums: tvm.runtime.Tensor, planes: int) -> np.ndarray:
    """float64 [2, tiles * L, planes]."""
    return bordered(sums, planes, SUMS)[:, :, 0].transpose(2, 0, 1).astype(np.float64)


def inside(a: tvm.runtime.Tensor, planes: int, plane: Plane) -> np.ndarray:
    """float64 [tiles * L, planes, H * W]: lanes past the batch included, the border left out."""
    b = plane.border
    whole = bordered(a, planes, plane)[:, :, b : b + plane.height, b : b + plane.width]
    return whole.reshape(*whole.shape[:2], -1).astype(np.float64)


def check_sums(what: str, found: np.ndarray, terms: np.ndarray, dtype: str) -> None:
    """Fails unless each is the sum over the last axis of its terms, up to rounding of the terms."""
    room = TOLERANCE[dtype] * np.abs(terms).sum(-1) + np.finfo(np.float32).tiny
    assert np.isfinite(found).all(), what
    assert (np.abs(found - terms.sum(-1)) <= room).all(), what


def check_forward(what: str, y: tvm.runtime.Tensor, sums: tvm.runtime.Tensor, g: ConvGeometry) -> None:
    """Fails unless the sums are those of what stands in y."""
    away = inside(y, g.filters, g.y)
    away = away - away[..., :1]
    first, second = by_example(sums, g.filters)
    check_sums(f"{what}: sums", first, away, g.dtype)
    check_sums(f"{what}: sums of squares", second, away**2, g.dtype)


@dataclass
class Norm:
    """The batch norm in front of a convolution: what its input and output hold, and its vectors."""

    epilogue: BackwardSums
    x: np.ndarray
    z: np.ndarray
    vectors: tuple[np.ndarray, ...]  # w, b, mean, rstd

    @classmethod
    def make(
        cls, batch: int, g: ConvGeometry, *, relu: bool, upper: float = math.inf, reads_z: bool = False, border: int = 0
    ) -> Norm:
        """Random numbers, and a channel whose output is zero everywhere; x and z have borders of their own."""
        rng, shape = np.random.default_rng(7), (batch, g.channels, g.dx.height, g.dx.width)
        x = (rng.standard_normal(shape) + 3).astype(g.dtype)
        w, b = (rng.standard_normal(g.channels).astype(g.dtype) for _ in range(2))
        w[-1] = b[-1] = 0
        mean, rstd = (3 + rng.random(g.channels)).astype(g.dtype), (0.5 + rng.random(g.channels)).astype(g.dtype)
        planes = [Plane(g.dx.height, g.dx.width, k) for k in (border, border + 1)]
        epilogue = BackwardSums(planes[0], relu, upper, planes[1] if reads_z else None)
        z = rng.standard_normal(shape) if reads_z else _per_channel(w * rstd, x) + _per_channel(b - mean * w * rstd)
        return cls(epilogue, x, np.clip(z, 0, upper).astype(g.dtype) if relu else z, (w, b, mean, rstd))

    def arguments(self, vec: Vec) -> list[tvm.runtime.Tensor]:
        """Those of the kernel, in front of its outputs; lanes past the batch hold any number."""
        e = self.epilogue
        z = [tile(self.z, e.z, vec, 0.5)] if e.z is not None else []
        return [tile(self.x, e.x, vec, 1e3), *z, *(tvm.runtime.tensor(v) for v in self.vectors)]

    def recompute(self, g: ConvGeometry, vec: Vec) -> Normalisation:
        """What the convolution computes that reads the batch norm's input (without `reads_z`)."""
        batch, e = len(self.x), self.epilogue
        return Normalisation(batch, g.channels, vec, e.x, g.x, e.relu, upper=e.upper)

    def output(self) -> np.ndarray:
        """float64 [N, C, H, W]: what that gives."""
        w, b, mean, rstd = (v.astype(np.float64)[:, None, None] for v in self.vectors)
        z = (self.x - mean) * rstd * w + b
        return np.clip(z, 0, self.epilogue.upper) if self.epilogue.relu else z

    def masked(self, dx: np.ndarray) -> np.ndarray:
        """The gradient [N, C, H, W] behind the ReLU."""
        return np.where((self.z > 0) & (self.z < self.epilogue.upper), dx, 0) if self.epilogue.relu else dx

    def check(self, what: str, g: tvm.runtime.Tensor, sums: tvm.runtime.Tensor, geometry: ConvGeometry) -> None:
        """Fails unless the sums are those of what stands in g, and those of lanes past the batch are zero."""
        batch, channels = self.x.shape[:2]
        gradient = inside(g, channels, geometry.dx)[:batch]
        away = self.x.astype(np.float64) - _per_channel(self.vectors[2].astype(np.float64))
        first, second = by_example(sums, channels)
        check_sums(f"{what}: sums of g", first[:batch], gradient, geometry.dtype)
        check_sums(f"{what}: sums of g (x - mean)", second[:batch], gradient * away.reshape(gradient.shape), g.dtype)
        assert (first[batch:] == 0).all() and (second[batch:] == 0).all(), what


def _per_channel(vector: np.ndarray, x: np.ndarray | float = 1.0) -> np.ndarray:
    """vector [C] times x [N, C, H, W]."""
    return vector[:, None, None] * x
