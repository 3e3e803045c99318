"""Which kernels can compute a convolution on a CPU, and their default knobs, from registers, caches and the shape.

A sparse layer has several: its scheme's own, and the dense one with zeros put back. The first of `candidates` is what
the rules below take to be the fastest; measuring (see `tuning`) may say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from tvm import tirx

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.kernels.bodies import Bodies, pattern_bodies, row_bodies
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.indices import dtypes_of, kernel_forms
from mest_compiler.kernels.problem import LayerProblem

from ..choice import Choice, tunable
from ..emit import tile_shape
from ..partial import Partial
from . import (
    block_gather,
    block_gradient,
    body_gather,
    body_gradient,
    dense_gather,
    dense_gradient,
    planes_gather,
    planes_gradient,
)
from .emit import Vec
from .gather import GatherKnobs, reach_of
from .weight_gradient import WeightGradientKnobs

SLAB_BYTES = 40 * 1024  # input that the rows of a group share: about a first-level cache
DENSE_SLAB_BYTES = 64 * 1024  # every load feeds several filters and all is read in order: less depends on the cache
MOST_GROUPS_OF_DOTS = 8  # of weight gradients that hold pixels of dY; more were not tried
BAND_PIXELS = 64  # pixels of dY that a weight gradient keeps close
DENSE_ROWS = 4  # output planes a register tile of a dense kernel
ENTRIES_PER_GROUP = 12  # fewer entries of a row in a group, and moving its sums costs more than the cache saves
ENTRIES_PER_BODY_GROUP = 7  # the same for entries that hold several weights each

TAPS_WIDTH = 3  # a kernel row of 3 places has 7 sets; wider ones would need too many bodies
DENSEST_ALONE = 0.25  # kept share up to which entries are alone in their kernel's row mostly
SPARSEST_DENSE = 0.25  # kept share below which the dense kernel, doing 4 times the work, is not even tried
PROBABLY_DENSE = {"block": 0.7, "pattern": 1.0, "planes": 1.0}  # kept share above which it is the likely winner

Knobs = GatherKnobs | WeightGradientKnobs


def _groups(
    planes: int, pixels: int, g: ConvGeometry, slab_bytes: int, entries: float, least: int = ENTRIES_PER_GROUP
) -> int:
    """Groups so that a slab (planes x pixels of each) stays below `slab_bytes`, with at least 8 planes and about
    `least` of the `entries` of a row in each."""
    slab = planes * pixels * Vec(g.lanes, g.dtype).bytes
    return max(1, min(-(-slab // slab_bytes), planes // 8, int(entries / least)))


def _groups_of_dots(g: ConvGeometry, most: float, together: int = 1) -> int:
    """Groups of a weight gradient that holds pixels of dY: with more, X stays closer, and dY is loaded more often.
    together: channels that no group may part."""
    return max(1, min(MOST_GROUPS_OF_DOTS, g.channels // max(8, together), int(most)))


def _read_by_tile(direction: str, g: ConvGeometry, pixels: int) -> int:
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


def _pixels(device: CpuProfile, planes: int) -> int:
    """Pixels a register tile: accumulators fill the registers but for what an update needs beside them."""
    wide = device.registers > 16
    if planes == 1:
        return 16 if wide else 14
    return (16 if wide else 12) // min(planes, DENSE_ROWS)


def _band(g: ConvGeometry) -> int:
    return max(1, min(g.dy.height, BAND_PIXELS // g.dy.width))


# ---- dense
def dense(direction: str, device: CpuProfile, g: ConvGeometry) -> Choice:
    """The dense kernel of a direction."""
    if direction == "backward_weight":
        filters = min(4 if device.registers > 16 else 3, g.filters // g.groups)
        # With few filters (a depthwise convolution has one) more places make up the sums in registers.
        entries = 9 // filters if filters < 3 else 3
        knobs = WeightGradientKnobs(entries=entries, rows=_band(g), chunks=device.threads, filters=filters)
        return tunable(partial(_dense_gradient, g), knobs)
    forward = direction == "forward"
    planes, plane, out = (g.channels, g.x, g.filters) if forward else (g.filters, g.dy, g.channels)
    outputs = min(DENSE_ROWS, out // g.groups)
    groups = _groups(planes // g.groups, g.kernel[0] * plane.cols, g, DENSE_SLAB_BYTES, g.columns)
    return tunable(partial(_dense_gather, direction, g), GatherKnobs(_pixels(device, outputs), groups, True, outputs))


def _dense_gradient(g: ConvGeometry, knobs: WeightGradientKnobs) -> Choice:
    make = Partial(dense_gradient.dense, g, knobs.filters, knobs)
    return Choice("dense_backward_weight", knobs, make, workspace=(g.filters * g.columns, g.lanes))


def _dense_gather(direction: str, g: ConvGeometry, knobs: GatherKnobs) -> Choice:
    make = dense_gather.forward if direction == "forward" else dense_gather.backward_data
    return Choice(f"dense_{direction}", knobs, Partial(make, g, knobs.outputs, knobs))


# ---- sparse: one function a family of schemes
def _choice(
    kernel: str, direction: str, indexing: str, layer: LayerProblem, knobs: Knobs, make: Callable, *args: Any
) -> Choice:
    """`make(layer, *args, knobs, types of the index arrays[, fused or again])` gives the kernel."""
    room = (layer.held, layer.geometry.lanes) if direction == "backward_weight" else None

    def with_knobs(knobs: Knobs) -> Choice:
        dtypes = dtypes_of(indexing, direction, layer, knobs.groups)
        made = Partial(make, layer, *args, knobs, dtypes)
        return Choice(f"{kernel}_{direction}", knobs, made, indexing, room)

    return tunable(with_knobs, knobs)


def _block(direction: str, device: CpuProfile, layer: LayerProblem) -> list[Choice]:
    g, kind, wide = layer.geometry, layer.sparse.kind, device.registers > 16
    kept = layer.held
    if direction == "backward_weight":
        per_row = layer.sparse.capacity / layer.sparse.rows
        if kind.filters == 1:
            groups = _groups_of_dots(g, per_row * kind.channels / ENTRIES_PER_GROUP, kind.channels)
            pixels, chains = (16, 4) if wide else (12, 2)
            knobs = WeightGradientKnobs(pixels=pixels, groups=groups, chunks=device.threads, chains=chains)
            make = block_gradient.dots
        else:
            entries = (16 if wide else 8) // min(kind.filters, block_gradient.MOST_FILTERS)
            groups = 2 if per_row >= 128 else 1
            knobs = WeightGradientKnobs(entries=entries, rows=_band(g), groups=groups, chunks=device.threads)
            make = block_gradient.outer
    elif direction == "forward":
        knobs = _block_gather(direction, device, g, kept / g.filters, (kind.channels, kind.filters))
        make = block_gather.forward
    else:
        per_row = kept / (g.channels * len(g.backward_grids))
        knobs = _block_gather(direction, device, g, per_row, (kind.filters, kind.channels))
        make = block_gather.backward_data
    return [_choice("block", direction, "block", layer, knobs, make)]


def _block_gather(
    direction: str, device: CpuProfile, g: ConvGeometry, entries: float, block: tuple[int, int]
) -> GatherKnobs:
    """Knobs of a gather with so many weights a row; block: planes that an entry reads, and those it adds to."""
    into, outputs = block
    planes, plane = (g.channels, g.x) if direction == "forward" else (g.filters, g.dy)
    pixels, alone = _pixels(device, outputs), outputs == 1
    read = _read_by_tile(direction, g, pixels) if alone else g.kernel[0] * plane.cols
    groups = min(_groups(planes, read, g, SLAB_BYTES, entries), planes // into)
    return GatherKnobs(pixels, groups, not alone)


def _weights(direction: str, device: CpuProfile, layer: LayerProblem) -> list[Choice]:
    """Blocks, and for single weights also rows of places."""
    return [*_block(direction, device, layer), *_taps(direction, device, layer)]


def _bodies(indexing: str, direction: str, device: CpuProfile, layer: LayerProblem, bodies: Bodies) -> Choice:
    g, wide = layer.geometry, device.registers > 16
    offsets, *_ = kernel_forms(layer, direction, (indexing, 1)).values()
    entries = offsets.length  # at most, of the whole layer
    pixels, chains = (16, 2) if wide else (10, 1)
    if direction == "backward_weight":
        groups = _groups_of_dots(g, entries / g.filters / ENTRIES_PER_BODY_GROUP)
        knobs = WeightGradientKnobs(pixels=pixels, groups=groups, chunks=device.threads, chains=chains)
        return _choice("body", direction, indexing, layer, knobs, body_gradient.dots, bodies)
    gather = body_gather.forward if direction == "forward" else body_gather.backward_data
    planes, rows = (g.channels, g.filters) if direction == "forward" else (g.filters, g.channels)
    read = _read_by_tile(direction, g, pixels)
    groups = _groups(planes, read, g, SLAB_BYTES, entries / rows, ENTRIES_PER_BODY_GROUP)
    knobs = GatherKnobs(pixels, groups)
    return _choice("body", direction, indexing, layer, knobs, gather, bodies)


def _pattern(direction: str, device: CpuProfile, layer: LayerProblem) -> list[Choice]:
    return [_bodies("pattern", direction, device, layer, pattern_bodies(layer.geometry))]


def _even_block(planes: int) -> int:
    """Output planes a register tile that leave the fewest alone; of equals the most."""
    return min(range(DENSE_ROWS, 1, -1), key=lambda block: (planes % block, -block))


def _planes(direction: str, device: CpuProfile, layer: LayerProblem) -> list[Choice]:
    if direction == "backward_weight":
        filters = 4 if device.registers > 16 else 3
        knobs = WeightGradientKnobs(entries=3, rows=_band(layer.geometry), chunks=device.threads, filters=filters)
        return [_choice("planes", direction, "planes", layer, knobs, _planes_gradient)]
    # Where the kept planes are the output's, they make up whole register tiles if that can be.
    kept_outputs = (layer.sparse.kind.axis == 1) == (direction == "backward_data")
    outputs = _even_block(layer.sparse.capacity) if kept_outputs else DENSE_ROWS
    knobs = GatherKnobs(_pixels(device, outputs), 1, True, outputs)
    make = _planes_forward if direction == "forward" else _planes_backward_data
    return [_choice("planes", direction, "planes", layer, knobs, make)]


def _planes_gradient(layer: LayerProblem, knobs: WeightGradientKnobs, *rest: Any) -> tirx.PrimFunc:
    return planes_gradient.kept(layer, knobs.filters, knobs, *rest)


def _planes_forward(layer: LayerProblem, knobs: GatherKnobs, *rest: Any) -> tirx.PrimFunc:
    return planes_gather.forward(layer, knobs.outputs, knobs, *rest)


def _planes_backward_data(layer: LayerProblem, knobs: GatherKnobs, *rest: Any) -> tirx.PrimFunc:
    return planes_gather.backward_data(layer, knobs.outputs, knobs, *rest)


def _taps(direction: str, device: CpuProfile, layer: LayerProblem) -> list[Choice]:
    """Kept places of a kernel's row together: for single weights, where several of a row are kept."""
    g = layer.geometry
    if layer.sparse.unit_size > 1 or g.stride != (1, 1) or g.kernel[1] != TAPS_WIDTH:
        return []
    if direction == "backward_weight" and device.registers == 16:
        return []  # dY and the sums of three places do not fit the registers
    if layer.sparse.capacity < DENSEST_ALONE * g.filters * g.columns:
        return []
    return [_bodies("taps", direction, device, layer, row_bodies(g))]


def _zeros(direction: str, device: CpuProfile, layer: LayerProblem) -> list[Choice]:
    """The dense kernel, where it does at most a few times the work."""
    g = layer.geometry
    if layer.kept < SPARSEST_DENSE:
        return []
    return [replace(dense(direction, device, g), indexing="zeros")]


FAMILIES = {"block": _weights, "pattern": _pattern, "planes": _planes}


def candidates(direction: str, device: CpuProfile, layer: LayerProblem) -> list[Choice]:
    """Kernels that compute a direction of a layer, the one that is probably the fastest first."""
    if layer.sparse is None:
        return [dense(direction, device, layer.geometry)]
    own = FAMILIES[layer.sparse.kind.family](direction, device, layer)
    zeros = _zeros(direction, device, layer)
    return [*zeros, *own] if layer.kept > PROBABLY_DENSE[layer.sparse.kind.family] else [*own, *zeros]
