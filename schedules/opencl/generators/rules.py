"""What the default knobs of gathers on OpenCL follow: the device's limits, and what a work-item's instructions cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.errors import DeviceError
from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.geometry import Subgrid
from mest_compiler.kernels.problem import LayerProblem

from ...choice import Choice, tunable
from ...partial import Partial
from ..emit import QUAD
from ..gather import GatherKnobs, Tiling
from ..weight_gradient import WeightGradientKnobs

ITEMS = 128  # work-items of a work-group: one or two waves
ACCUMULATORS = 8  # quads a work-item by default: more of them leave fewer waves to hide the time of loads
LOADS = 8  # of an entry's input that a work-item waits for at once: more crowd its cache
MOST_ACCUMULATORS = 12  # beyond, too few waves fit a phone's registers

# What a work-item's instructions cost, a load of a quad of the input being 1.
WEIGHT = 1 / 8  # a load of a weight: one number for a whole wave
UPDATE = 1 / 4
ENTRY = 1  # what comes with each entry: its index, addresses, a turn of the loop

Make = Callable[..., tirx.PrimFunc]
"""(layer, what else its family needs, knobs, types of the index arrays) -> the kernel."""


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


def gather_knobs(device: OpenClProfile, lanes: int, work: Work, outputs: Sequence[int]) -> GatherKnobs:
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


def check(device: OpenClProfile, lanes: int, outputs: int, knobs: GatherKnobs) -> None:
    """Raises DeviceError for knobs that are beyond the device's limits."""
    items, accumulators = lanes // QUAD * knobs.tiles * knobs.parts, outputs * knobs.rows * knobs.cols
    if items > device.work_group or accumulators > MOST_ACCUMULATORS:
        raise DeviceError(
            f"A convolution over {lanes} batch lanes with {knobs} has work-groups of {items} items with {accumulators} "
            f"accumulators each, and {device.name} has {device.work_group} items with {MOST_ACCUMULATORS}: use fewer "
            "tiles or parts, smaller tiles, or fewer batch lanes."
        )


def gather(
    kernel: str, direction: str, family: str, device: OpenClProfile, layer: LayerProblem, work: Work,
    outputs: Sequence[int], make: Make, *args: Any,
) -> Choice:  # fmt: skip
    """A gather of so many output planes a work-item, the cheapest of them by default."""
    lanes = layer.geometry.lanes

    def with_knobs(knobs: GatherKnobs) -> Choice:
        check(device, lanes, knobs.outputs if len(outputs) > 1 else outputs[0], knobs)
        dtypes = FAMILIES[family].dtypes(layer, direction, knobs.groups)
        return Choice(f"{kernel}_{direction}", knobs, Partial(make, layer, *args, knobs, dtypes), family)

    return tunable(with_knobs, gather_knobs(device, lanes, work, outputs))


def gradient(
    kernel: str, family: str, layer: LayerProblem, knobs: WeightGradientKnobs,
    workspace: Callable[[LayerProblem, WeightGradientKnobs], tuple[int, ...] | None], make: Make, *args: Any,
) -> Choice:  # fmt: skip
    """A weight gradient."""

    def with_knobs(knobs: WeightGradientKnobs) -> Choice:
        dtypes, room = FAMILIES[family].dtypes(layer, "backward_weight", knobs.groups), workspace(layer, knobs)
        return Choice(f"{kernel}_backward_weight", knobs, Partial(make, layer, *args, knobs, dtypes), family, room)

    return tunable(with_knobs, knobs)
