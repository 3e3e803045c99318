"""What the tests of the convolution kernels share: layers as cases, hostile masks, tiled data with poisoned outputs,
and the dense float64 reference."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import tvm

from mest_compiler.kernels.arguments import Groups, index_arrays
from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.schedules.cpu.emit import Vec
from mest_compiler.sparsity.schemes import SCHEMES
from mest_compiler.sparsity.structure import Structure, build

from .tiles import TOLERANCE, poisoned, tile, untile

SCHEME_OF_BLOCK = {scheme.block: scheme.name for scheme in SCHEMES}
BATCH_PADDING = 1e3  # what lanes past the batch may hold in an input: any finite number


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


def hostile_masks(shape: tuple[int, int, int, int], block: int, seed: int = 0) -> dict[str, np.ndarray]:
    """bool masks [F, C, kh, kw] of a scheme: random ones, and what breaks kernels that count on the usual."""
    rng = np.random.default_rng(seed)
    rows, columns = shape[0] // block, shape[1] * shape[2] * shape[3]
    sparse = rng.random((rows, columns)) < 0.3
    uneven = rng.random((rows, columns)) < np.linspace(0, 1, rows)[:, None]
    gaps = sparse.copy()
    gaps[::2] = False
    full_rows = sparse.copy()
    full_rows[-1] = True
    one_entry = np.zeros((rows, columns), bool)
    one_entry[rows - 1, columns - 1] = True
    dead_channels = sparse.reshape(rows, shape[1], -1).copy()
    dead_channels[:, ::2] = False
    units = {
        "random": sparse, "uneven rows": uneven, "empty rows": gaps, "a full row": full_rows, "one entry": one_entry,
        "empty channels": dead_channels.reshape(rows, columns), "all": np.ones((rows, columns), bool),
        "none": np.zeros((rows, columns), bool),
    }  # fmt: skip
    return {name: np.repeat(kept, block, axis=0).reshape(shape) for name, kept in units.items()}


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
    def make(cls, conv: Conv, vec: Vec, mask: np.ndarray | None = None, seed: int = 0) -> Data:
        """Random inputs and their reference; `mask` is applied to the weight."""
        rng, g = np.random.default_rng(seed), conv.geometry(vec)
        weight = rng.standard_normal(conv.weight_shape).astype(vec.dtype)
        if mask is not None:
            weight = weight * mask
        x = rng.standard_normal((conv.batch, conv.channels, *conv.plane)).astype(vec.dtype)
        dy = rng.standard_normal((conv.batch, conv.filters, *conv.out_plane())).astype(vec.dtype)
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

    def check(self, what: str, found: np.ndarray, wanted: np.ndarray) -> None:
        """Fails unless two arrays agree relative to the larger one's largest number."""
        assert found.shape == wanted.shape, what
        error = np.abs(found - wanted).max(initial=0) / max(np.abs(wanted).max(initial=0), 1e-30)
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


@dataclass
class SparseLayer:
    """A layer with a mask: its structure, its compact values (poisoned past the filled part) and its index arrays."""

    data: Data
    structure: Structure

    @classmethod
    def make(cls, conv: Conv, vec: Vec, block: int, mask: np.ndarray, parts: int = 1, spare: int = 3) -> SparseLayer:
        """`spare` entries of capacity stay unfilled; `parts` as in `structure.build`."""
        units = int(mask.sum()) // block
        return cls(Data.make(conv, vec, mask), build(mask, SCHEME_OF_BLOCK[block], units + spare, parts))

    def values(self) -> tvm.runtime.Tensor:
        """The weight as [capacity, block]; whoever reads the unfilled tail gets NaN."""
        values = self.structure.compact(self.data.weight)
        values[self.structure.entries :] = np.nan
        return tvm.runtime.tensor(values)

    def index(self, groups: int) -> dict[str, tvm.runtime.Tensor]:
        """The index arrays for kernels of so many groups of input planes."""
        arrays = index_arrays(self.structure, self.data.g, Groups(groups, groups, groups))
        return {name: tvm.runtime.tensor(np.asarray(a, order="C")) for name, a in arrays.items()}

    def run_forward(self, what: str, kernel, groups: int) -> None:
        """Calls and checks a forward kernel."""
        i, y = self.index(groups), y_buffer(self.data.g)
        kernel(self.data.x, self.values(), i["offset"], i["forward_ptr"], i["row"], y)
        self.data.check_y(what, y)

    def run_backward_data(self, what: str, kernel, groups: int) -> None:
        """Calls and checks a backward-data kernel."""
        i, dx = self.index(groups), dx_buffer(self.data.g)
        kernel(self.data.dy, self.values(), i["back_offset"], i["back_ptr"], i["back_row"], i["back_perm"], dx)
        self.data.check_dx(what, dx)

    def run_backward_weight(self, what: str, kernel, groups: int) -> None:
        """Calls and checks a backward-weight kernel; the tail past the entries is nobody's business."""
        i, s = self.index(groups), self.structure
        dv = poisoned((s.capacity, s.block), self.data.g.dtype)
        work = poisoned((s.capacity * s.block, self.data.g.lanes), self.data.g.dtype)
        kernel(self.data.x, self.data.dy, i["offset"], i["weight_ptr"], i["row"], dv, work)
        wanted = s.compact(self.data.dw_ref)[: s.entries]
        self.data.check(what, dv.numpy()[: s.entries], wanted)
