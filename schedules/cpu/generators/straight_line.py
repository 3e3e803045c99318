"""Patterns of kernels, and kept places of a kernel's row, on a CPU."""

from __future__ import annotations

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.problem import LayerProblem

from ...choice import Choice
from .. import body_gather, body_gradient
from ..gather import GatherKnobs, reach_of
from ..weight_gradient import WeightGradientKnobs
from .rules import SLAB_BYTES, groups, groups_of_dots, read_by_tile, sparse_choice, wide
from .spaces import dots_space, gather_space, too_many

ENTRIES_PER_GROUP = 7  # as for blocks (see `rules`), of entries that hold several weights each
DENSEST_ALONE = 0.25  # kept share up to which entries are alone in their kernel's row mostly


class StraightLine:
    """See `schedules.generator.Generator`; one output plane a register tile. family: its name."""

    def __init__(self, family: str) -> None:
        self.family = FAMILIES[family]

    def choice(self, direction: str, device: CpuProfile, problem: LayerProblem) -> Choice | None:
        """The only kernel of a direction."""
        g, bodies = problem.geometry, self.family.bodies(problem.geometry)
        offsets, *_ = self.family.index_arrays(problem, direction, 1).values()
        entries = offsets.length  # at most, of the whole layer
        pixels, chains = (16, 2) if wide(device) else (10, 1)
        if direction == "backward_weight":
            count = groups_of_dots(g, entries / g.filters / ENTRIES_PER_GROUP)
            knobs = WeightGradientKnobs(pixels=pixels, groups=count, chunks=device.threads, chains=chains)
            return sparse_choice("body", direction, self.family.name, problem, knobs, body_gradient.dots, bodies)
        gather = body_gather.forward if direction == "forward" else body_gather.backward_data
        planes, rows = (g.channels, g.filters) if direction == "forward" else (g.filters, g.channels)
        read = read_by_tile(direction, g, pixels)
        count = groups(planes, read, g, SLAB_BYTES, entries / rows, ENTRIES_PER_GROUP)
        knobs = GatherKnobs(pixels, count)
        return sparse_choice("body", direction, self.family.name, problem, knobs, gather, bodies)

    def space(self, direction: str, choice: Choice, device: CpuProfile, problem: LayerProblem) -> dict[str, list[int]]:
        """Register tiles of one output plane."""
        g = problem.geometry
        if direction == "backward_weight":
            return dots_space(choice, device, g)
        return gather_space(direction, choice, device, g, 1, reach_of(g, 1))

    def refusal(self, direction: str, choice: Choice, device: CpuProfile, problem: LayerProblem) -> str | None:
        """Too many accumulators."""
        knobs = choice.knobs
        return too_many(knobs.pixels + (knobs.chains if direction == "backward_weight" else 0), device)


class Taps(StraightLine):
    """Where several places of a row are kept."""

    def choice(self, direction: str, device: CpuProfile, problem: LayerProblem) -> Choice | None:
        """None also where dY and the sums of three places do not fit the registers."""
        if direction == "backward_weight" and device.registers == 16:
            return None
        return super().choice(direction, device, problem) if problem.kept >= DENSEST_ALONE else None
