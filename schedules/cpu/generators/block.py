"""Blocks and single weights on a CPU."""

from __future__ import annotations

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.problem import LayerProblem

from ...choice import Choice
from .. import block_gather, block_gradient
from ..gather import GatherKnobs, reach_of
from ..weight_gradient import WeightGradientKnobs
from .rules import ENTRIES_PER_GROUP, SLAB_BYTES, band, groups, groups_of_dots, pixels_of, read_by_tile, sparse_choice
from .rules import wide as has_many_registers
from .spaces import dots_space, gather_space, sums_space, too_many


class Blocks:
    """See `schedules.generator.Generator`; weight gradients of blocks of one filter hold pixels of dY, others sums."""

    def choice(self, direction: str, device: CpuProfile, problem: LayerProblem) -> Choice:
        """The only kernel of a direction."""
        g, block = problem.geometry, problem.sparse.kind
        if direction == "backward_weight":
            return self._gradient(device, problem)
        if direction == "forward":
            knobs = _gather(direction, device, g, problem.held / g.filters, (block.channels, block.filters))
            make = block_gather.forward
        else:
            per_row = problem.held / (g.channels * len(g.backward_grids))
            knobs = _gather(direction, device, g, per_row, (block.filters, block.channels))
            make = block_gather.backward_data
        return sparse_choice("block", direction, "block", problem, knobs, make)

    def _gradient(self, device: CpuProfile, problem: LayerProblem) -> Choice:
        g, block, wide = problem.geometry, problem.sparse.kind, has_many_registers(device)
        per_row = problem.sparse.capacity / problem.sparse.rows
        if block.filters == 1:
            count = groups_of_dots(g, per_row * block.channels / ENTRIES_PER_GROUP, block.channels)
            pixels, chains = (16, 4) if wide else (12, 2)
            knobs = WeightGradientKnobs(pixels=pixels, groups=count, chunks=device.threads, chains=chains)
            make = block_gradient.dots
        else:
            entries = (16 if wide else 8) // min(block.filters, block_gradient.MOST_FILTERS)
            count = 2 if per_row >= 128 else 1
            knobs = WeightGradientKnobs(entries=entries, rows=band(g), groups=count, chunks=device.threads)
            make = block_gradient.outer
        return sparse_choice("block", "backward_weight", "block", problem, knobs, make)

    def space(self, direction: str, choice: Choice, device: CpuProfile, problem: LayerProblem) -> dict[str, list[int]]:
        """Register tiles of the block's output planes."""
        g = problem.geometry
        if direction != "backward_weight":
            planes = _outputs(direction, problem)
            return gather_space(direction, choice, device, g, planes, reach_of(g, planes))
        if problem.sparse.kind.filters == 1:
            return dots_space(choice, device, g)
        return sums_space(choice, device, g, filters=False)

    def refusal(self, direction: str, choice: Choice, device: CpuProfile, problem: LayerProblem) -> str | None:
        """Too many accumulators."""
        knobs, planes = choice.knobs, _outputs(direction, problem)
        if direction != "backward_weight":
            return too_many(knobs.pixels * planes, device)
        held = problem.sparse.kind.filters == 1
        return too_many(knobs.pixels + knobs.chains if held else knobs.entries * planes, device)


def _outputs(direction: str, problem: LayerProblem) -> int:
    """Output planes a register tile."""
    block = problem.sparse.kind
    return min(block.channels if direction == "backward_data" else block.filters, 4)


def _gather(direction: str, device: CpuProfile, g: ConvGeometry, entries: float, block: tuple[int, int]) -> GatherKnobs:
    """Knobs of a gather with so many weights a row; block: planes that an entry reads, and those it adds to."""
    into, outputs = block
    planes, plane = (g.channels, g.x) if direction == "forward" else (g.filters, g.dy)
    pixels, alone = pixels_of(device, outputs), outputs == 1
    read = read_by_tile(direction, g, pixels) if alone else g.kernel[0] * plane.cols
    count = min(groups(planes, read, g, SLAB_BYTES, entries), planes // into)
    return GatherKnobs(pixels, count, not alone)
