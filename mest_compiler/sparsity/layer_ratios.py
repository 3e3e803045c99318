"""How one overall sparsity is shared out among layers (paper, Appendix K): the rules behind a profile's `ratio`.

Of the layers that a ratio rules, with N_l weights each, the sparsities s_l always make sum(N_l * s_l) = s * sum(N_l):

- "uniform": s_l = s.
- "A:B": A for B between the sparsities of spatial kernels (3x3 and all others larger than 1x1) and of 1x1 kernels,
  linear layers being of the latter: s_l = t * A or t * B. The paper's 1.12:1 at 90 % gives ResNet-50 95 % and 85 %.
- "proportional": larger layers get higher ratios: the kept fraction falls with size as 1 - s_l = t * N_l^(-1/4).
  The paper says no more than "proportional to the layer size". A ratio that is literally so would leave most layers
  dense and remove the largest nearly whole, since sizes differ five hundredfold; the square root, which is what the
  Erdos-Renyi rule of SET and RigL comes to, leaves the early layers dense, where an iteration spends as long as in the
  late ones, and Table K.1 has this strategy within 5 % of the uniform one's time. The fourth root keeps ResNet-50
  between 63 % and 92 % at 90 % overall.

Where a scheme cannot have what it should (less than a pattern's 5/9, nothing kept, more than `LIMIT`), the layer gets
the nearest it can have, and t makes up for it in the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

import numpy as np

from mest_compiler.errors import ProfileError

from .schemes import Scheme, Shape

UNIFORM, PROPORTIONAL = "uniform", "proportional"
LIMIT = 0.99
"""The highest sparsity that a ratio gives to a layer of its own accord."""
FALL = 0.25
DIGITS = 6
"""Of the ratios that are solved for; a unit is a larger part of most layers."""
_PAIR = re.compile(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)")
_HALVINGS = 100


def check_ratio_rule(ratio: object) -> None:
    """Raise ProfileError unless this is uniform, proportional or "A:B" with two numbers above 0."""
    if not isinstance(ratio, str) or (ratio not in (UNIFORM, PROPORTIONAL) and _pair(ratio) is None):
        raise ProfileError(
            f"Key 'ratio' of a sparsity profile is {ratio!r}: use {UNIFORM}, {PROPORTIONAL}, or two numbers above 0 in "
            'quotes, such as "1.12:1".'
        )


def share_out(ratio: str, sparsity: float, layers: Sequence[tuple[Shape, Scheme]]) -> list[float]:
    """The sparsity of each layer, in [0, 1), by the rules of this module's docstring.

    Args:
        ratio: one that `check_ratio_rule` lets pass.
        sparsity: overall, in [0, 1).
        layers: weight shape and scheme of each layer that is ruled; the scheme must fit the shape.

    Raises:
        ProfileError: the schemes allow no such overall sparsity. A uniform ratio is not checked.
    """
    if ratio == UNIFORM or not layers:
        return [sparsity] * len(layers)
    sizes = np.array([prod(shape) for shape, _ in layers], np.float64)
    low = np.array([scheme.lowest for _, scheme in layers])
    high = np.maximum(low, [min(LIMIT, scheme.highest(shape)) for shape, scheme in layers])
    least, most = low @ sizes / sizes.sum(), high @ sizes / sizes.sum()
    if not least <= sparsity <= most:
        raise ProfileError(
            f"An overall sparsity of {sparsity:g} cannot be shared out with ratio {ratio!r} among {len(layers)} layers "
            f"whose schemes allow {least:.4f} to {most:.4f}: change it, or the schemes or ratios of some layers."
        )
    # Per unit of effort in [0, 1], from all layers at their lowest to all at their highest, rising.
    if ratio == PROPORTIONAL:
        falling = (sizes.max() / sizes) ** FALL

        def wanted(effort: float) -> np.ndarray:
            return 1 - (1 - effort) * falling
    else:
        spatial, pointwise = _pair(ratio)
        parts = np.array([pointwise if shape[2] == shape[3] == 1 else spatial for shape, _ in layers])
        slopes = parts / parts.min()

        def wanted(effort: float) -> np.ndarray:
            return effort * slopes

    lower, upper = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (lower + upper) / 2
        below = np.clip(wanted(middle), low, high) @ sizes < sparsity * sizes.sum()
        lower, upper = (middle, upper) if below else (lower, middle)
    return np.clip(np.round(wanted(upper), DIGITS), low, high).tolist()


def _pair(ratio: str) -> tuple[float, float] | None:
    """(A, B) of "A:B", None where it is no ratio of two numbers above 0."""
    found = _PAIR.fullmatch(ratio)
    if found is None:
        return None
    pair = float(found[1]), float(found[2])
    return pair if min(pair) > 0 and max(pair) < float("inf") else None
