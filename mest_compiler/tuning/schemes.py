"""Each layer's scheme by measuring: the one whose forward and both gradients take the least together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mest_compiler.errors import ProfileError
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.problem import DIRECTIONS, LayerProblem
from mest_compiler.schedules.candidates import candidates
from mest_compiler.sparsity.automatic import AUTO, Automatic
from mest_compiler.sparsity.layer_rules import LayerPlan
from mest_compiler.sparsity.profile import Profile

from .fastest import Fastest

_WHERE_NONE_FITS = "unstructured"
"""The scheme with the smallest units: a layer that no scheme can take cannot have it either."""


def fastest_schemes(
    wanted: Automatic,
    layers: Mapping[str, ConvGeometry],
    fastest: Fastest,
    masks: Mapping[str, np.ndarray] | None = None,
    *,
    first_dense: bool = True,
) -> Profile:
    """A profile with the fastest plan of each layer; the others are as the overall sparsity leaves them.

    Args:
        layers: ungrouped convolutions in network order; without masks the first stays dense, if `first_dense`.
        masks: bool [F, C, kh, kw] of the layers that are to be sparse.

    Raises:
        ProfileError, MaskError: as `Automatic.plans`. ProfileError: there is no layer to choose for.
    """
    names = list(layers)[1 if first_dense else 0 :] if masks is None else [name for name in layers if name in masks]
    if masks is None and not names:
        raise ProfileError(
            f"Scheme {AUTO!r} measures convolutions, and this model has none that can be sparse: name a scheme."
        )
    chosen: dict[str, LayerPlan] = {}
    for name in names:
        g = layers[name]
        plans = wanted.plans(name, (g.filters, g.channels, *g.kernel), None if masks is None else masks[name])
        ms = {plan: _ms(LayerProblem.of(g, plan.scheme, kept), fastest) for plan, kept in plans.items()}
        if ms:
            chosen[name] = min(ms, key=ms.__getitem__)
    return Profile(LayerPlan(_WHERE_NONE_FITS, wanted.sparsity or 0.0), layers=chosen)


def _ms(layer: LayerProblem, fastest: Fastest) -> float:
    total = 0.0
    for direction in DIRECTIONS:
        found = candidates(direction, fastest.device, layer)
        total += min(fastest.measure(direction, layer, fastest.contestants(direction, layer, found)).values())
    return total
