"""Dense convolutions on a CPU."""

from __future__ import annotations

from functools import partial

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.problem import LayerProblem

from ...choice import Choice, tunable
from ...partial import Partial
from .. import dense_gather, dense_gradient
from ..gather import GatherKnobs
from ..weight_gradient import WeightGradientKnobs
from .rules import DENSE_ROWS, band, groups, pixels_of, wide
from .spaces import gather_space, sums_space, too_many

SLAB_BYTES = 64 * 1024  # every load feeds several filters and all is read in order: less depends on the cache


class Dense:
    """See `schedules.generator.Generator`; register tiles of several output planes, and of several filters."""

    def choice(self, direction: str, device: CpuProfile, problem: LayerProblem) -> Choice:
        """The only kernel of a direction."""
        g = problem.geometry
        if direction == "backward_weight":
            filters = min(4 if wide(device) else 3, g.filters // g.groups)
            # With few filters (a depthwise convolution has one) more places make up the sums in registers.
            entries = 9 // filters if filters < 3 else 3
            knobs = WeightGradientKnobs(entries=entries, rows=band(g), chunks=device.threads, filters=filters)
            return tunable(partial(_gradient, g), knobs)
        forward = direction == "forward"
        planes, plane, out = (g.channels, g.x, g.filters) if forward else (g.filters, g.dy, g.channels)
        outputs = min(DENSE_ROWS, out // g.groups)
        count = groups(planes // g.groups, g.kernel[0] * plane.cols, g, SLAB_BYTES, g.columns)
        return tunable(partial(_gather, direction, g), GatherKnobs(pixels_of(device, outputs), count, True, outputs))

    def space(self, direction: str, choice: Choice, device: CpuProfile, problem: LayerProblem) -> dict[str, list[int]]:
        """Register tiles of any shape."""
        if direction == "backward_weight":
            return sums_space(choice, device, problem.geometry, filters=True)
        return gather_space(direction, choice, device, problem.geometry, 1, (1, 1), outputs=True)

    def refusal(self, direction: str, choice: Choice, device: CpuProfile, problem: LayerProblem) -> str | None:
        """Too many accumulators."""
        knobs = choice.knobs
        gradient = direction == "backward_weight"
        return too_many(knobs.entries * knobs.filters if gradient else knobs.pixels * knobs.outputs, device)


def _gradient(g: ConvGeometry, knobs: WeightGradientKnobs) -> Choice:
    make = Partial(dense_gradient.dense, g, knobs.filters, knobs)
    return Choice("dense_backward_weight", knobs, make, workspace=(g.filters * g.columns, g.lanes))


def _gather(direction: str, g: ConvGeometry, knobs: GatherKnobs) -> Choice:
    make = dense_gather.forward if direction == "forward" else dense_gather.backward_data
    return Choice(f"dense_{direction}", knobs, Partial(make, g, knobs.outputs, knobs))
