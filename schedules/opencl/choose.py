"""Which kernels can compute a convolution on OpenCL, and their default knobs, from the device's limits and the shape.

A sparse layer has several: its scheme's own, and the dense one with zeros put back. The first of `candidates` is what
the rules below take to be the fastest; measuring (see `tuning`) may say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tvm import tirx

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.errors import DeviceError
from mest_compiler.kernels.bodies import pattern_bodies
from mest_compiler.kernels.geometry import ConvGeometry, Subgrid
from mest_compiler.kernels.indices import dtypes_of, kernel_forms
from mest_compiler.kernels.problem import LayerProblem

from ..choice import Choice, tunable
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
from .emit import QUAD
from .gather import GatherKnobs, Tiling
from .weight_gradient import WeightGradientKnobs

ITEMS = 128  # work-items of a work-group: one or two waves
ACCUMULATORS = 8  # quads a work-item by default: more of them leave fewer waves to hide the time of loads
LOADS = 8  # of an entry's input that a work-item waits for at once: more crowd its cache
MOST_ACCUMULATORS = 12  # beyond, too few waves fit a phone's registers
DENSE_OUTPUTS = 4  # output planes a work-item of a dense kernel

# What a work-item's instructions cost, a load of a quad of the input being 1.
WEIGHT = 1 / 8  # a load of a weight: one number for a whole wave
UPDATE = 1 / 4
ENTRY = 1  # what comes with each entry: its index, addresses, a turn of the loop

SPARSEST_DENSE = 0.25  # kept share below which the dense kernel, doing 4 times the work, is not even tried
PROBABLY_DENSE = {"block": 0.7, "pattern": 1.0, "planes": 1.0}  # kept share above which it is the likely winner


@dataclass(frozen=True)
class Work:
    """What rules need to know of a gather: its grids, each with the offsets of the updates between which loads of the
    input are shared; how many output planes a row of the structure has, how many such rows there are, and input planes
    of an entry."""

    grids: Sequence[tuple[Subgrid, Sequence[Sequence[int]]]]
    outputs: int
    rows: int
    inputs: int = 1

    def cost(self, outputs: int, knobs: GatherKnobs) -> float:
        """Of the whole launch, work-items having `outputs` planes of a row each."""
        total = 0.0
        for grid, terms in self.grids:
            tiling = Tiling.of(grid, knobs)
            pixels = [r * grid.in_row + c * grid.in_col for r, c in tiling.pixels]
            for offsets in terms:
                loads = len({p + offset for p in pixels for offset in offsets})
                plane = loads + outputs * len(offsets) * (WEIGHT + len(pixels) * UPDATE)
                total += tiling.count * (self.inputs * plane + ENTRY)
        return total * -(-self.outputs // outputs) * self.rows


# ---- what all gathers share
def _tile(work: Work, outputs: Sequence[int]) -> GatherKnobs:
    """The cheapest register tile; of equals the one with the most output planes, then with the fewest rows."""
    found = []
    high, wide = (max(sizes) for sizes in zip(*((grid.rows, grid.cols) for grid, _ in work.grids), strict=True))
    for n in outputs:
        pixels = max(1, min(ACCUMULATORS // n, LOADS // work.inputs))
        heights = range(1, min(pixels, high) + 1)
        tiles = [(rows, cols) for rows in heights for cols in range(1, min(pixels // rows, wide) + 1)]
        found += [GatherKnobs(rows, cols, rows_first=True, outputs=n) for rows, cols in tiles]
    return min(found, key=lambda k: (work.cost(k.outputs, k), -k.outputs, k.rows, -k.cols))


def _gather_knobs(device: OpenClProfile, lanes: int, work: Work, outputs: Sequence[int]) -> GatherKnobs:
    """Register tile and work-group: of `ITEMS` items, of the same row as far as the plane reaches. Work-groups of all
    rows come one after the other: a batch tile's input is larger than caches, and so it is read from memory once."""
    knobs = _tile(work, outputs)
    slots = max(1, min(ITEMS, device.work_group) // (lanes // QUAD))
    count = max(Tiling.of(grid, knobs).count for grid, _ in work.grids)
    rows = work.rows * -(-work.outputs // knobs.outputs)
    if count <= slots:
        return replace(knobs, tiles=count, parts=max(1, min(slots // count, rows)))
    # The work-group's tiles that leave the fewest items idle; of equals the most.
    return replace(knobs, tiles=min(range(slots // 2 + 1, slots + 1), key=lambda n: (-(-count // n) * n, -n)))


def _check(device: OpenClProfile, lanes: int, outputs: int, knobs: GatherKnobs) -> None:
    """Raises DeviceError for knobs that are beyond the device's limits."""
    items, accumulators = lanes // QUAD * knobs.tiles * knobs.parts, outputs * knobs.rows * knobs.cols
    if items > device.work_group or accumulators > MOST_ACCUMULATORS:
        raise DeviceError(
            f"A convolution over {lanes} batch lanes with {knobs} has work-groups of {items} items with {accumulators} "
            f"accumulators each, and {device.name} has {device.work_group} items with {MOST_ACCUMULATORS}: use fewer "
            "tiles or parts, smaller tiles, or fewer batch lanes."
        )


# ---- dense
def dense(direction: str, device: OpenClProfile, g: ConvGeometry) -> Choice:
    """The dense kernel of a direction."""
    if direction == "backward_weight":
        return tunable(partial(_dense_gradient, g), dense_gradient.default_knobs(device, g))
    forward = direction == "forward"
    work = Work(_dense_grids(direction, g), (g.filters if forward else g.channels) // g.groups, g.groups)
    knobs = _gather_knobs(device, g.lanes, work, _outputs(work.outputs))
    return tunable(partial(_dense_gather, direction, device, g), knobs)


def _dense_gradient(g: ConvGeometry, knobs: WeightGradientKnobs) -> Choice:
    make = Partial(dense_gradient.dense, g, dense_gradient.default_block(g), knobs)
    return Choice("dense_backward_weight", knobs, make, workspace=dense_gradient.workspace(g, knobs))


def _dense_gather(direction: str, device: OpenClProfile, g: ConvGeometry, knobs: GatherKnobs) -> Choice:
    _check(device, g.lanes, knobs.outputs, knobs)
    make = dense_gather.forward if direction == "forward" else dense_gather.backward_data
    return Choice(f"dense_{direction}", knobs, Partial(make, g, knobs.outputs, knobs))


def _dense_grids(direction: str, g: ConvGeometry) -> list[tuple[Subgrid, list[list[int]]]]:
    grids = dense_gather.forward_taps(g) if direction == "forward" else g.backward_grids
    return [(grid, [list(taps.values())]) for grid, taps in grids]


def _outputs(planes: int) -> list[int]:
    """Output planes that a work-item may have, of so many."""
    most = min(DENSE_OUTPUTS, planes)
    return sorted({most, min(2, planes), 1}, reverse=True)


# ---- sparse: one function a family of schemes
Make = Callable[..., tirx.PrimFunc]
"""(layer, what else its family needs, knobs, types of the index arrays) -> the kernel."""


def _gather(
    kernel: str, direction: str, indexing: str, device: OpenClProfile, layer: LayerProblem, work: Work,
    outputs: Sequence[int], make: Make, *args: Any,
) -> Choice:  # fmt: skip
    """A gather of so many output planes a work-item, the cheapest of them by default."""
    lanes = layer.geometry.lanes

    def with_knobs(knobs: GatherKnobs) -> Choice:
        _check(device, lanes, knobs.outputs if len(outputs) > 1 else outputs[0], knobs)
        dtypes = dtypes_of(indexing, direction, layer, knobs.groups)
        return Choice(f"{kernel}_{direction}", knobs, Partial(make, layer, *args, knobs, dtypes), indexing)

    return tunable(with_knobs, _gather_knobs(device, lanes, work, outputs))


def _gradient(
    kernel: str, indexing: str, layer: LayerProblem, knobs: WeightGradientKnobs,
    workspace: Callable[[LayerProblem, WeightGradientKnobs], tuple[int, ...] | None], make: Make, *args: Any,
) -> Choice:  # fmt: skip
    def with_knobs(knobs: WeightGradientKnobs) -> Choice:
        dtypes, room = dtypes_of(indexing, "backward_weight", layer, knobs.groups), workspace(layer, knobs)
        return Choice(f"{kernel}_backward_weight", knobs, Partial(make, layer, *args, knobs, dtypes), indexing, room)

    return tunable(with_knobs, knobs)


def _block(direction: str, device: OpenClProfile, layer: LayerProblem) -> list[Choice]:
    g, kind = layer.geometry, layer.sparse.kind
    if direction == "backward_weight":
        knobs = block_gradient.default_knobs(device, layer)
        return [_gradient("block", "block", layer, knobs, block_gradient.workspace, block_gradient.outer)]
    forward = direction == "forward"
    grids = [g.forward_grid] if forward else [grid for grid, _ in g.backward_grids]
    sizes, planes = (kind.filters, kind.channels), g.filters if forward else g.channels
    out, into = sizes if forward else sizes[::-1]
    work = Work([(grid, [[0]]) for grid in grids], out, planes // out, into)
    make = block_gather.forward if forward else block_gather.backward_data
    return [_gather("block", direction, "block", device, layer, work, [block_gather.planes_of(out)], make)]


def _pattern(direction: str, device: OpenClProfile, layer: LayerProblem) -> list[Choice]:
    g, bodies = layer.geometry, pattern_bodies(layer.geometry)
    if direction == "backward_weight":
        offsets, *_ = kernel_forms(layer, direction, ("pattern", 1)).values()
        knobs = body_gradient.default_knobs(device, layer, bodies, offsets.length)
        return [_gradient("body", "pattern", layer, knobs, body_gradient.workspace, body_gradient.dots, bodies)]
    forward = direction == "forward"
    grids = [(g.forward_grid, bodies.forward)] if forward else bodies.backward
    terms = [(grid, [[offset for _, offset in body.terms] for body in some]) for grid, some in grids]
    work = Work(terms, 1, g.filters if forward else g.channels)
    make = body_gather.forward if forward else body_gather.backward_data
    return [_gather("body", direction, "pattern", device, layer, work, [1], make, bodies)]


def _planes_forward(layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    return planes_gather.forward(layer, knobs.outputs, knobs, dtypes)


def _planes_backward_data(layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    return planes_gather.backward_data(layer, knobs.outputs, knobs, dtypes)


def _planes(direction: str, device: OpenClProfile, layer: LayerProblem) -> list[Choice]:
    g = layer.geometry
    if direction == "backward_weight":
        knobs = planes_gradient.default_knobs(device, layer)
        block, room = planes_gradient.default_block(layer), planes_gradient.workspace
        return [_gradient("planes", "planes", layer, knobs, room, planes_gradient.kept, block)]
    forward = direction == "forward"
    work = Work(_dense_grids(direction, g), g.filters if forward else g.channels, 1)
    make = _planes_forward if forward else _planes_backward_data
    return [_gather("planes", direction, "planes", device, layer, work, _outputs(work.outputs), make)]


def _zeros(direction: str, device: OpenClProfile, layer: LayerProblem) -> list[Choice]:
    """The dense kernel, where it does at most a few times the work."""
    g = layer.geometry
    if layer.kept < SPARSEST_DENSE:
        return []
    return [replace(dense(direction, device, g), indexing="zeros")]


FAMILIES = {"block": _block, "pattern": _pattern, "planes": _planes}


def candidates(direction: str, device: OpenClProfile, layer: LayerProblem) -> list[Choice]:
    """Kernels that compute a direction of a layer, the one that is probably the fastest first."""
    if layer.sparse is None:
        return [dense(direction, device, layer.geometry)]
    own = FAMILIES[layer.sparse.kind.family](direction, device, layer)
    zeros = _zeros(direction, device, layer)
    return [*zeros, *own] if layer.kept > PROBABLY_DENSE[layer.sparse.kind.family] else [*own, *zeros]
