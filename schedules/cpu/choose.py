"""Default knobs of every convolution kernel on a CPU, from its registers, caches and the layer's shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from tvm import tirx

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.kernels.geometry import ConvGeometry, Plane

from . import gather, weight_gradient
from .gather import GatherKnobs
from .weight_gradient import WeightGradientKnobs

SLAB_BYTES = 32 * 1024  # input that the rows of a group share: about a first-level cache
DENSE_SLAB_BYTES = 64 * 1024  # every load feeds several filters and all is read in order: less depends on the cache
BAND_PIXELS = 64  # pixels of dY that a weight gradient keeps close
DENSE_ROWS = 4  # output planes a register tile of a dense kernel
ENTRIES_PER_GROUP = 12  # fewer entries of a row in a group, and moving its sums costs more than the cache saves


@dataclass(frozen=True)
class Choice:
    """A kernel, its knobs, and whether they come from a tuning record or are the generator's own."""

    kernel: str
    knobs: GatherKnobs | WeightGradientKnobs
    make: Callable[[], tirx.PrimFunc]
    source: str = "default"

    @property
    def groups(self) -> int:
        """Groups of input planes that the layer's row pointers are built for."""
        return self.knobs.groups

    def describe(self) -> dict[str, object]:
        """For reports: {"kernel", "knobs", "source"}."""
        return {"kernel": self.kernel, "knobs": asdict(self.knobs), "source": self.source}


def _bytes(g: ConvGeometry) -> int:
    return {"float32": 4, "float64": 8}[g.dtype]


def _groups(planes: int, plane: Plane, g: ConvGeometry, slab_bytes: int, entries: float) -> int:
    """Groups so that a slab (planes x kernel rows x columns) stays below `slab_bytes`, with at least 8 planes and about
    ENTRIES_PER_GROUP of the `entries` of a row in each."""
    slab = planes * g.kernel[0] * plane.cols * g.lanes * _bytes(g)
    return max(1, min(-(-slab // slab_bytes), planes // 8, int(entries / ENTRIES_PER_GROUP)))


def _pixels(device: CpuProfile, block: int) -> int:
    """Pixels a register tile: accumulators fill the registers but for what an update needs beside them."""
    if block == 1:
        return 14 if device.registers == 16 else 16
    return 3 if device.registers == 16 else 4


def forward(device: CpuProfile, g: ConvGeometry, block: int | None, entries: int = 0) -> Choice:
    """Forward convolution: sparse with blocks of `block` filters and `entries` entries, dense where block is None."""
    if block is None:
        groups = _groups(g.channels // g.groups, g.x, g, DENSE_SLAB_BYTES, g.columns)
        knobs = GatherKnobs(_pixels(device, DENSE_ROWS), groups, True)
        return Choice("dense_forward", knobs, lambda: gather.dense_forward(g, DENSE_ROWS, knobs))
    groups = _groups(g.channels, g.x, g, SLAB_BYTES, entries * block / g.filters)
    knobs = GatherKnobs(_pixels(device, block), groups, True)
    return Choice("sparse_forward", knobs, lambda: gather.sparse_forward(g, block, knobs))


def backward_data(device: CpuProfile, g: ConvGeometry, block: int | None, entries: int = 0) -> Choice:
    """Backward-data convolution, like `forward`; here a row is an input channel, and an entry reads `block` planes."""
    if block is None:
        groups = _groups(g.filters // g.groups, g.dy, g, DENSE_SLAB_BYTES, g.columns)
        knobs = GatherKnobs(_pixels(device, DENSE_ROWS), groups, True)
        return Choice("dense_backward_data", knobs, lambda: gather.dense_backward_data(g, DENSE_ROWS, knobs))
    per_row = entries * block / (g.channels * len(g.backward_grids))
    groups = min(_groups(g.filters, g.dy, g, SLAB_BYTES, per_row), g.filters // block)
    knobs = GatherKnobs(_pixels(device, 1), groups, True)
    return Choice("sparse_backward_data", knobs, lambda: gather.sparse_backward_data(g, block, knobs))


def backward_weight(device: CpuProfile, g: ConvGeometry, block: int | None, entries: int = 0) -> Choice:
    """Backward-weight convolution, like `forward`."""
    rows = max(1, min(g.dy.height, BAND_PIXELS // g.dy.width))
    wide = device.registers > 16
    if block is None:
        filters = 4 if wide else 3
        knobs = WeightGradientKnobs(entries=3, rows=rows, chunks=device.threads)
        return Choice("dense_backward_weight", knobs, lambda: weight_gradient.dense(g, filters, knobs))
    per_row = entries * block / g.filters
    if block == 1:
        groups = max(1, min(4, int(per_row / ENTRIES_PER_GROUP)))
        knobs = WeightGradientKnobs(pixels=16 if wide else 12, groups=groups, chunks=device.threads)
        return Choice("sparse_dots", knobs, lambda: weight_gradient.sparse_dots(g, 1, knobs))
    groups = 2 if per_row >= 128 else 1
    knobs = WeightGradientKnobs(entries=4 if wide else 2, rows=rows, groups=groups, chunks=device.threads)
    return Choice("sparse_outer", knobs, lambda: weight_gradient.sparse_outer(g, block, knobs))


CHOOSE = {"forward": forward, "backward_data": backward_data, "backward_weight": backward_weight}
