"""What the tests of the convolution kernels share: layers as cases, tiled data with poisoned outputs, and the dense
float64 reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import tvm

from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.schedules.cpu.emit import Vec

from .tiles import TOLERANCE, poisoned, tile, untile

BATCH_PADDING = 1e3  # what lanes past the batch may hold in an input: any finite number
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""Draws an array of a shape."""


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers."""
    return rng.standard_normal(shape)


def whole(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Small whole numbers, whose sums of products are the same in any order."""
    return rng.integers(-9, 10, shape)


@dataclass(frozen=True)
class Conv:
    """A convolution as PyTorch would call it; `margin`: border beyond its own need, as a neighbour may want it."""

    channels: int
    filters: int
    plane: tuple[int, int]
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    batch: int = 5
    margin: int = 0

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """[F, C / groups, kh, kw]."""
        return self.filters, self.channels // self.groups, *self.kernel

    def out_plane(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        return tuple(
            (size + 2 * pad - dil * (k - 1) - 1) // step + 1
            for size, k, step, pad, dil in zip(
                self.plane, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )

    def geometry(self, vec: Vec) -> ConvGeometry:
        """The layer over batch tiles, x and dy with the border they need and the margin."""
        out = self.out_plane()
        g = ConvGeometry(
            tiles=-(-self.batch // vec.lanes), lanes=vec.lanes, channels=self.channels, filters=self.filters,
            kernel=self.kernel, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups,
            dtype=vec.dtype, x=Plane(*self.plane), y=Plane(*out), dy=Plane(*out), dx=Plane(*self.plane),
        )  # fmt: skip
        return replace(
            g,
            x=Plane(*self.plane, g.needed_x_border + self.margin),
            dy=Plane(*out, g.needed_dy_border + self.margin),
        )


@dataclass
class Data:
    """One layer's numbers: NCHW inputs, what PyTorch makes of them in float64, and the tiled inputs of the kernels."""

    conv: Conv
    g: ConvGeometry
    weight: np.ndarray
    x: tvm.runtime.Tensor
    dy: tvm.runtime.Tensor
    y_ref: np.ndarray
    dx_ref: np.ndarray
    dw_ref: np.ndarray

    @classmethod
    def make(
        cls, conv: Conv, vec: Vec, mask: np.ndarray | None = None, draw: Draw = normal, x: np.ndarray | None = None
    ) -> Data:
        """Random inputs, but for an `x` that is given, and their reference; `mask` is applied to the weight."""
        rng, g = np.random.default_rng(0), conv.geometry(vec)
        weight = draw(rng, conv.weight_shape).astype(vec.dtype)
        if mask is not None:
            weight = weight * mask
        drawn = draw(rng, (conv.batch, conv.channels, *conv.plane)).astype(vec.dtype)
        x = drawn if x is None else x
        dy = draw(rng, (conv.batch, conv.filters, *conv.out_plane())).astype(vec.dtype)
        tx, tw, tdy = (torch.from_numpy(a.astype(np.float64)) for a in (x, weight, dy))
        y = torch.conv2d(tx, tw, None, conv.stride, conv.padding, conv.dilation, conv.groups)
        dx, dw, _ = torch.ops.aten.convolution_backward(
            tdy, tx, tw, None, conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups, [True, True, False]
        )
        return cls(
            conv, g, weight, tile(x, g.x, vec, BATCH_PADDING), tile(dy, g.dy, vec), y.numpy(), dx.numpy(), dw.numpy()
        )

    def weight_tensor(self) -> tvm.runtime.Tensor:
        """The weight as PyTorch stores it."""
        return tvm.runtime.tensor(np.ascontiguousarray(self.weight))

    def check(self, what: str, found: np.ndarray, wanted: np.ndarray, among: np.ndarray | None = None) -> None:
        """Fails unless two arrays agree relative to the largest number wanted; in float32 to that `among` others: a sum
        whose terms cancel is as inexact as its neighbours."""
        assert found.shape == wanted.shape, what
        exact = among is None or self.g.dtype == "float64"
        largest = np.abs(wanted if exact else among).max(initial=0)
        error = np.abs(found - wanted).max(initial=0) / max(largest, 1e-30)
        assert error <= TOLERANCE[self.g.dtype], f"{what}: relative error {error}"  # a NaN fails too

    def check_y(self, what: str, y: tvm.runtime.Tensor) -> None:
        """Compares a forward kernel's output."""
        self.check(what, untile(y, self.conv.batch, self.conv.filters, self.g.y), self.y_ref)

    def check_dx(self, what: str, dx: tvm.runtime.Tensor) -> None:
        """Compares a backward-data kernel's output."""
        self.check(what, untile(dx, self.conv.batch, self.conv.channels, self.g.dx), self.dx_ref)


def y_buffer(g: ConvGeometry) -> tvm.runtime.Tensor:
    """A poisoned output [tiles, F * pixels, L]."""
    return poisoned((g.tiles, g.filters * g.y.size, g.lanes), g.dtype)


def dx_buffer(g: ConvGeometry) -> tvm.runtime.Tensor:
    """A poisoned gradient of the input [tiles, C * pixels, L]."""
    return poisoned((g.tiles, g.channels * g.dx.size, g.lanes), g.dtype)
