"""Masks that keep what is large in trained weights: how a dense network becomes a sparse one that is trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mest_compiler.errors import MaskError

from .masks import Masks, Plan
from .mutation import importance, remove_to
from .scheme import Scheme, Shape
from .schemes import get_scheme, kernel_shape


def magnitude_masks(plan: Plan, weights: Mapping[str, np.ndarray]) -> Masks:
    """Of each layer of the plan, the mask bool [F, C, kh, kw] that keeps the units with the largest sum of |w|.

    That is MEST's importance (Eq. 1) with a lambda of 0, and units are chosen as its mutation removes them: where the
    scheme is balanced every row keeps its own best, where units exclude each other (the patterns of a kernel) the best
    of them is the one that may stay, and of equals the one with the smaller id goes.

    Args:
        plan: scheme and sparsity by parameter name.
        weights: float arrays by parameter name, of all layers of the plan; linear layers' may be [F, C].

    Raises:
        MaskError: weights of a layer are missing or not finite.
        ProfileError: a scheme that cannot have its layer's shape or ratio.
    """
    masks = {}
    for name, layer in plan.items():
        if name not in weights:
            raise MaskError(f"There are no weights of {name!r}, whose magnitudes would choose its mask: give them.")
        weight = np.asarray(weights[name])
        if not np.isfinite(weight).all():
            raise MaskError(f"Weights of {name!r} are not finite, so none is the largest: use other weights.")
        scheme, shape = get_scheme(layer.scheme), kernel_shape(weight.shape)
        scheme.check_shape(name, shape)
        scheme.check_ratio(f"layer {name!r}", layer.sparsity)
        masks[name] = scheme.mask_of(_largest(scheme, shape, weight, layer.sparsity), shape)
    return masks


def _largest(scheme: Scheme, shape: Shape, weight: np.ndarray, sparsity: float) -> np.ndarray:
    """int32, ascending: ids of the units that are kept at a sparsity."""
    rows, columns = scheme.grid(shape)
    values = weight.reshape(-1)[scheme.weights_of(np.arange(rows * columns), shape)]
    of_units = importance(values, np.zeros_like(values), 0.0)
    sites = int(scheme.site(np.array([columns - 1]))[0]) + 1
    kinds = columns // sites  # units of a site, of which a mask keeps one at most
    best = np.arange(rows * sites) * kinds + of_units.reshape(-1, kinds).argmax(axis=1)
    return remove_to(scheme, shape, best, of_units[best], scheme.kept_units(shape, sparsity))
