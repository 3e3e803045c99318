"""Patterns of kernels on OpenCL."""

from __future__ import annotations

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.problem import LayerProblem

from ...choice import Choice
from .. import body_gather, body_gradient
from .rules import Work, gather, gradient
from .spaces import gather_space, gradient_space, refused_gather, refused_gradient


class StraightLine:
    """See `schedules.generator.Generator`; one output plane a work-item. family: its name."""

    def __init__(self, family: str) -> None:
        self.family = FAMILIES[family]

    def choice(self, direction: str, device: OpenClProfile, problem: LayerProblem) -> Choice:
        """The only kernel of a direction."""
        g, name = problem.geometry, self.family.name
        bodies = self.family.bodies(g)
        if direction == "backward_weight":
            offsets, *_ = self.family.index_arrays(problem, direction, 1).values()
            knobs = body_gradient.default_knobs(device, problem, bodies, offsets.length)
            return gradient("body", name, problem, knobs, body_gradient.workspace, body_gradient.dots, bodies)
        forward = direction == "forward"
        grids = [(g.forward_grid, bodies.forward)] if forward else bodies.backward
        terms = [(grid, [[offset for _, offset in body.terms] for body in some]) for grid, some in grids]
        work = Work(terms, 1, g.filters if forward else g.channels)
        make = body_gather.forward if forward else body_gather.backward_data
        return gather("body", direction, name, device, problem, work, [1], make, bodies)

    def space(
        self, direction: str, choice: Choice, device: OpenClProfile, problem: LayerProblem
    ) -> dict[str, list[int]]:
        """Work-items of any tile."""
        if direction == "backward_weight":
            return gradient_space(choice, device, problem.geometry, entries=(1, 2), pixels=True)
        return gather_space(direction, choice, device, problem.geometry)

    def refusal(self, direction: str, choice: Choice, device: OpenClProfile, problem: LayerProblem) -> str | None:
        """What the device's limits forbid."""
        if direction != "backward_weight":
            return refused_gather(choice, 1)
        values = problem.sparse.unit_size
        return refused_gradient(choice, device, problem.geometry, values, in_registers=False)
