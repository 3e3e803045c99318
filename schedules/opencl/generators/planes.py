"""Kept channels and filters on OpenCL."""

from __future__ import annotations

from tvm import tirx

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.problem import LayerProblem

from ...choice import Choice
from .. import planes_gather, planes_gradient
from ..gather import GatherKnobs
from .dense import Dense, grids, outputs
from .rules import Work, gather, gradient


class Planes(Dense):
    """As dense ones, over the planes that are kept."""

    def choice(self, direction: str, device: OpenClProfile, problem: LayerProblem) -> Choice:
        """The only kernel of a direction."""
        g = problem.geometry
        if direction == "backward_weight":
            knobs, block = planes_gradient.default_knobs(device, problem), planes_gradient.default_block(problem)
            make = planes_gradient.kept
            return gradient("planes", "planes", problem, knobs, planes_gradient.workspace, make, block)
        forward = direction == "forward"
        work = Work(grids(direction, g), g.filters if forward else g.channels, 1)
        make = _forward if forward else _backward_data
        return gather("planes", direction, "planes", device, problem, work, outputs(work.outputs), make)

    def _filters(self, problem: LayerProblem) -> int:
        return planes_gradient.default_block(problem)


def _forward(layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    return planes_gather.forward(layer, knobs.outputs, knobs, dtypes)


def _backward_data(layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    return planes_gather.backward_data(layer, knobs.outputs, knobs, dtypes)
