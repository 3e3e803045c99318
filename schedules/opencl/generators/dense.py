"""Dense convolutions on OpenCL."""

from __future__ import annotations

from functools import partial

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.geometry import ConvGeometry, Subgrid
from mest_compiler.kernels.problem import LayerProblem

from ...choice import Choice, tunable
from ...partial import Partial
from .. import dense_gather, dense_gradient
from ..gather import GatherKnobs
from ..weight_gradient import WeightGradientKnobs
from .rules import Work, check, gather_knobs
from .spaces import gather_space, gradient_space, refused_gather, refused_gradient

MOST_OUTPUTS = 4  # output planes a work-item


class Dense:
    """See `schedules.generator.Generator`; work-items of several output planes, and of several filters."""

    def choice(self, direction: str, device: OpenClProfile, problem: LayerProblem) -> Choice:
        """The only kernel of a direction."""
        g = problem.geometry
        if direction == "backward_weight":
            return tunable(partial(_gradient, g), dense_gradient.default_knobs(device, g))
        planes = (g.filters if direction == "forward" else g.channels) // g.groups
        work = Work(grids(direction, g), planes, g.groups)
        knobs = gather_knobs(device, g.lanes, work, outputs(planes))
        return tunable(partial(_gather, direction, device, g), knobs)

    def space(
        self, direction: str, choice: Choice, device: OpenClProfile, problem: LayerProblem
    ) -> dict[str, list[int]]:
        """Work-items of any tile."""
        if direction == "backward_weight":
            return gradient_space(choice, device, problem.geometry)
        return gather_space(direction, choice, device, problem.geometry, outputs=True)

    def refusal(self, direction: str, choice: Choice, device: OpenClProfile, problem: LayerProblem) -> str | None:
        """What the device's limits forbid."""
        if direction == "backward_weight":
            return refused_gradient(choice, device, problem.geometry, self._filters(problem))
        return refused_gather(choice, choice.knobs.outputs)

    def _filters(self, problem: LayerProblem) -> int:
        """Of a weight gradient's item."""
        return dense_gradient.default_block(problem.geometry)


def _gradient(g: ConvGeometry, knobs: WeightGradientKnobs) -> Choice:
    make = Partial(dense_gradient.dense, g, dense_gradient.default_block(g), knobs)
    return Choice("dense_backward_weight", knobs, make, workspace=dense_gradient.workspace(g, knobs))


def _gather(direction: str, device: OpenClProfile, g: ConvGeometry, knobs: GatherKnobs) -> Choice:
    check(device, g.lanes, knobs.outputs, knobs)
    make = dense_gather.forward if direction == "forward" else dense_gather.backward_data
    return Choice(f"dense_{direction}", knobs, Partial(make, g, knobs.outputs, knobs))


def grids(direction: str, g: ConvGeometry) -> list[tuple[Subgrid, list[list[int]]]]:
    """Of a dense gather, with the offsets of its taps."""
    found = dense_gather.forward_taps(g) if direction == "forward" else g.backward_grids
    return [(grid, [list(taps.values())]) for grid, taps in found]


def outputs(planes: int) -> list[int]:
    """Output planes that a work-item may have, of so many."""
    most = min(MOST_OUTPUTS, planes)
    return sorted({most, min(2, planes), 1}, reverse=True)
