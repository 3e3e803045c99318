"""Kept channels and filters on a CPU."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.kernels.problem import LayerProblem

from ...choice import Choice
from .. import planes_gather, planes_gradient
from ..gather import GatherKnobs
from ..weight_gradient import WeightGradientKnobs
from .dense import Dense
from .rules import DENSE_ROWS, band, pixels_of, sparse_choice, wide


class Planes(Dense):
    """As dense ones, over the planes that are kept."""

    def choice(self, direction: str, device: CpuProfile, problem: LayerProblem) -> Choice:
        """The only kernel of a direction."""
        if direction == "backward_weight":
            filters = 4 if wide(device) else 3
            rows = band(problem.geometry)
            knobs = WeightGradientKnobs(entries=3, rows=rows, chunks=device.threads, filters=filters)
            return sparse_choice("planes", direction, "planes", problem, knobs, _gradient)
        # Where the kept planes are the output's, they make up whole register tiles if that can be.
        kept_outputs = (problem.sparse.kind.axis == 1) == (direction == "backward_data")
        outputs = _even_block(problem.sparse.capacity) if kept_outputs else DENSE_ROWS
        make = _forward if direction == "forward" else _backward_data
        gather = GatherKnobs(pixels_of(device, outputs), 1, True, outputs)
        return sparse_choice("planes", direction, "planes", problem, gather, make)


def _even_block(planes: int) -> int:
    """Output planes a register tile that leave the fewest alone; of equals the most."""
    return min(range(DENSE_ROWS, 1, -1), key=lambda block: (planes % block, -block))


def _gradient(layer: LayerProblem, knobs: WeightGradientKnobs, *rest: Any) -> tirx.PrimFunc:
    return planes_gradient.kept(layer, knobs.filters, knobs, *rest)


def _forward(layer: LayerProblem, knobs: GatherKnobs, *rest: Any) -> tirx.PrimFunc:
    return planes_gather.forward(layer, knobs.outputs, knobs, *rest)


def _backward_data(layer: LayerProblem, knobs: GatherKnobs, *rest: Any) -> tirx.PrimFunc:
    return planes_gather.backward_data(layer, knobs.outputs, knobs, *rest)
