"""What the default knobs of a CPU's kernels follow: registers, caches and the shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.problem import LayerProblem

from ...choice import Choice, tunable
from ...emit import tile_shape
from ...partial import Partial
from ..emit import Vec
from ..gather import GatherKnobs, reach_of
from ..weight_gradient import WeightGradientKnobs

SLAB_BYTES = 40 * 1024  # input that the rows of a group share: about a first-level cache
MOST_GROUPS_OF_DOTS = 8  # of weight gradients that hold pixels of dY; more were not tried
BAND_PIXELS = 64  # pixels of dY that a weight gradient keeps close
DENSE_ROWS = 4  # output planes a register tile of a dense kernel
ENTRIES_PER_GROUP = 12  # fewer entries of a row in a group, and moving its sums costs more than the cache saves

Knobs = GatherKnobs | WeightGradientKnobs


def wide(device: CpuProfile) -> bool:
    """Whether there are more registers than the sixteen of AVX2."""
    return device.registers > 16


def groups(
    planes: int, pixels: int, g: ConvGeometry, slab_bytes: int, entries: float, least: int = ENTRIES_PER_GROUP
) -> int:
    """Groups so that a slab (planes x pixels of each) stays below `slab_bytes`, with at least 8 planes and about
    `least` of the `entries` of a row in each."""
    slab = planes * pixels * Vec(g.lanes, g.dtype).bytes
    return max(1, min(-(-slab // slab_bytes), planes // 8, int(entries / least)))


def groups_of_dots(g: ConvGeometry, most: float, together: int = 1) -> int:
    """Groups of a weight gradient that holds pixels of dY: with more, X stays closer, and dY is loaded more often.
    together: channels that no group may part."""
    return max(1, min(MOST_GROUPS_OF_DOTS, g.channels // max(8, together), int(most)))


def read_by_tile(direction: str, g: ConvGeometry, pixels: int) -> int:
    """Pixels of a plane that a register tile of so many pixels of one output plane reads."""
    if direction == "backward_data":
        grid, _ = g.backward_grids[0]
        sizes = [-(-k // s) for k, s in zip(g.kernel, g.stride, strict=True)]
        steps = (1, 1)
    else:
        grid, sizes, steps = g.forward_grid, list(g.kernel), g.stride
    tile = tile_shape(grid.rows, grid.cols, pixels, reach_of(g, 1))
    rows, cols = ((n - 1) * step + size for n, step, size in zip(tile, steps, sizes, strict=True))
    return rows * cols


def pixels_of(device: CpuProfile, planes: int) -> int:
    """Pixels a register tile: accumulators fill the registers but for what an update needs beside them."""
    if planes == 1:
        return 16 if wide(device) else 14
    return (16 if wide(device) else 12) // min(planes, DENSE_ROWS)


def band(g: ConvGeometry) -> int:
    """Rows of dY that a weight gradient takes at a time."""
    return max(1, min(g.dy.height, BAND_PIXELS // g.dy.width))


def sparse_choice(
    kernel: str, direction: str, family: str, layer: LayerProblem, knobs: Knobs, make: Callable, *args: Any
) -> Choice:
    """`make(layer, *args, knobs, types of the index arrays[, fused or recompute])` gives the kernel."""
    room = (layer.held, layer.geometry.lanes) if direction == "backward_weight" else None

    def with_knobs(knobs: Knobs) -> Choice:
        dtypes = FAMILIES[family].dtypes(layer, direction, knobs.groups)
        made = Partial(make, layer, *args, knobs, dtypes)
        return Choice(f"{kernel}_{direction}", knobs, made, family, room)

    return tunable(with_knobs, knobs)
