"""Shapes of batch-tiled activations and of a convolution over them: where borders and offsets are worked out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any


@dataclass(frozen=True)
class Plane:
    """One stored channel of an activation: height x width pixels inside a zero border, L lanes a pixel.

    Offsets are counted in pixels (vectors of L lanes), row by row, border included.
    """

    height: int
    width: int
    border: int = 0

    @property
    def rows(self) -> int:
        """Stored rows, border included."""
        return self.height + 2 * self.border

    @property
    def cols(self) -> int:
        """Stored columns, border included."""
        return self.width + 2 * self.border

    @property
    def size(self) -> int:
        """Stored pixels, border included."""
        return self.rows * self.cols

    def at(self, row: int, col: int) -> int:
        """Offset of a pixel; negative rows and columns reach into the border."""
        return (row + self.border) * self.cols + col + self.border


@dataclass(frozen=True)
class Subgrid:
    """Output pixels that share one set of taps: every pixel for a forward convolution, a parity class for a strided
    backward-data one. Offsets and steps are in pixels of the stored planes."""

    rows: int
    cols: int
    in_base: int
    in_row: int
    in_col: int
    out_base: int
    out_row: int
    out_col: int


@dataclass(frozen=True)
class ConvGeometry:
    """A two-dimensional convolution C -> F over batch tiles of L lanes.

    ``x`` and ``dx`` are planes of the input's size, ``y`` and ``dy`` of the output's; each buffer has its own border.
    """

    tiles: int
    lanes: int
    channels: int
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    x: Plane
    y: Plane
    dy: Plane
    dx: Plane
    dtype: str = "float32"
    groups: int = 1

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Of a dense weight: (F, C / groups, kh, kw)."""
        return self.filters, self.channels // self.groups, *self.kernel

    @property
    def taps(self) -> int:
        """Entries of a kernel: kh * kw."""
        return self.kernel[0] * self.kernel[1]

    @property
    def columns(self) -> int:
        """Columns of the GEMM view: channels a filter sees times taps."""
        return self.channels // self.groups * self.taps

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ConvGeometry:
        """Of what `dataclasses.asdict` gave, after a way through JSON."""
        planes = {name: Plane(**stored[name]) for name in ("x", "y", "dy", "dx")}
        pairs = {name: tuple(stored[name]) for name in ("kernel", "stride", "padding", "dilation")}
        return cls(**{**stored, **planes, **pairs})

    @property
    def needed_x_border(self) -> int:
        """Border that forward and backward-weight read of x."""
        return max(self.padding)

    @property
    def needed_dy_border(self) -> int:
        """Border that the gathering backward-data reads of dy."""
        low = high = 0
        for axis, (size, out) in enumerate(((self.dx.height, self.dy.height), (self.dx.width, self.dy.width))):
            for parity in range(min(self.stride[axis], size)):
                count = ceil((size - parity) / self.stride[axis])
                for shift in (s for _, s in self._axis_taps(axis, parity)):
                    low, high = max(low, -shift), max(high, count - 1 + shift - (out - 1))
        return max(low, high)

    def _axis_taps(self, axis: int, parity: int) -> list[tuple[int, int]]:
        """(tap, shift) pairs: output position s*u + parity of dx reads dy at u + shift through that tap."""
        pad, dil, step = self.padding[axis], self.dilation[axis], self.stride[axis]
        pairs = ((tap, parity + pad - tap * dil) for tap in range(self.kernel[axis]))
        return [(tap, d // step) for tap, d in pairs if d % step == 0]

    @cached_property
    def forward_grid(self) -> Subgrid:
        """All output pixels; reads of x start at its border minus the padding."""
        (sh, sw), (ph, pw) = self.stride, self.padding
        base = self.x.at(-ph, -pw)
        return Subgrid(self.y.height, self.y.width, base, sh * self.x.cols, sw, self.y.at(0, 0), self.y.cols, 1)

    def tap_offset(self, tap: int) -> int:
        """Offset in x of a tap, relative to `forward_grid`'s base."""
        i, j = divmod(tap, self.kernel[1])
        return i * self.dilation[0] * self.x.cols + j * self.dilation[1]

    @cached_property
    def backward_grids(self) -> tuple[tuple[Subgrid, dict[int, int]], ...]:
        """Per parity class of dx: its pixels, and {tap: offset in dy} of the taps that reach them."""
        (sh, sw), found = self.stride, []
        for py in range(min(sh, self.dx.height)):
            for px in range(min(sw, self.dx.width)):
                rows, cols = ceil((self.dx.height - py) / sh), ceil((self.dx.width - px) / sw)
                grid = Subgrid(rows, cols, 0, self.dy.cols, 1, self.dx.at(py, px), sh * self.dx.cols, sw)
                taps = {
                    i * self.kernel[1] + j: self.dy.at(di, dj)
                    for i, di in self._axis_taps(0, py)
                    for j, dj in self._axis_taps(1, px)
                }
                found.append((grid, taps))
        return tuple(found)
