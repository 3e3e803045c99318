"""Each layer's scheme by measuring: the one whose forward and both gradients take the least together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.indices import DIRECTIONS, SparseConv
from mest_compiler.schedules import generators
from mest_compiler.sparsity.automatic import Automatic
from mest_compiler.sparsity.layer_rules import LayerPlan
from mest_compiler.sparsity.profile import Profile

from .fastest import Fastest


def fastest_schemes(
    wanted: Automatic,
    layers: Mapping[str, ConvGeometry],
    fastest: Fastest,
    masks: Mapping[str, np.ndarray] | None = None,
    *,
    first_dense: bool = True,
) -> Profile:
    """A profile with the fastest plan of each layer.

    Args:
        layers: ungrouped convolutions in network order; without masks the first stays dense, if `first_dense`.
        masks: bool [F, C, kh, kw] of the layers that are to be sparse.

    Raises:
        ProfileError, MaskError: as `Automatic.plans`.
    """
    chosen: dict[str, LayerPlan | None] = {}
    for number, (name, g) in enumerate(layers.items()):
        mask = None if masks is None else masks.get(name)
        if (mask is None) if masks is not None else (number == 0 and first_dense):
            chosen[name] = None
            continue
        plans = wanted.plans(name, (g.filters, g.channels, *g.kernel), mask)
        ms = {plan: _ms(SparseConv(g, plan.scheme, kept), fastest) for plan, kept in plans.items()}
        chosen[name] = min(ms, key=ms.__getitem__)
    return Profile(LayerPlan("unstructured", 0.0), layers=chosen)


def _ms(layer: SparseConv, fastest: Fastest) -> float:
    total = 0.0
    for direction in DIRECTIONS:
        found = generators(fastest.device).choose.candidates(direction, fastest.device, layer)
        total += min(fastest.measure(direction, layer, fastest.contestants(direction, layer, found)).values())
    return total
