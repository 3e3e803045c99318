"""Blocks and single weights on OpenCL."""

from __future__ import annotations

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.problem import LayerProblem

from ...choice import Choice
from .. import block_gather, block_gradient
from ..weight_gradient import MOST_FILTERS, cover
from .rules import Work, gather, gradient
from .spaces import gather_space, gradient_space, refused_gather, refused_gradient


class Blocks:
    """See `schedules.generator.Generator`; a work-item has the output planes of a block."""

    def choice(self, direction: str, device: OpenClProfile, problem: LayerProblem) -> Choice:
        """The only kernel of a direction."""
        g, block = problem.geometry, problem.sparse.kind
        if direction == "backward_weight":
            knobs = block_gradient.default_knobs(device, problem)
            return gradient("block", "block", problem, knobs, block_gradient.workspace, block_gradient.outer)
        forward = direction == "forward"
        grids = [g.forward_grid] if forward else [grid for grid, _ in g.backward_grids]
        sizes, planes = (block.filters, block.channels), g.filters if forward else g.channels
        out, into = sizes if forward else sizes[::-1]
        work = Work([(grid, [[0]]) for grid in grids], out, planes // out, into)
        make = block_gather.forward if forward else block_gather.backward_data
        return gather("block", direction, "block", device, problem, work, [block_gather.planes_of(out)], make)

    def space(
        self, direction: str, choice: Choice, device: OpenClProfile, problem: LayerProblem
    ) -> dict[str, list[int]]:
        """Work-items of any tile."""
        if direction == "backward_weight":
            return gradient_space(choice, device, problem.geometry)
        return gather_space(direction, choice, device, problem.geometry)

    def refusal(self, direction: str, choice: Choice, device: OpenClProfile, problem: LayerProblem) -> str | None:
        """What the device's limits forbid."""
        if direction != "backward_weight":
            return refused_gather(choice, 1)
        filters = cover(problem.sparse.kind.filters, MOST_FILTERS).size
        return refused_gradient(choice, device, problem.geometry, filters)
