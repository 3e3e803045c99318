"""Memory of a network's weights and their gradients during sparse training: Table A.1 of the paper, for every scheme.

With N weights of which a fraction s is zero, weights and gradients of b_w bits, indices of b_index bits, and F_l
filters in layer l (Appendix B):

    dense           2N * b_w
    structured      (1-s) * 2N * b_w                              (channel, filter)
    unstructured    (1-s) * (2N * b_w + N * b_index)     + sum_l (F_l + 1) * b_index
    pattern         (1-s) * (2N * b_w + N/4 * b_index)   + sum_l (F_l + 1) * b_index
    block, B = m*n  (1-s) * (2N * b_w + N/B * b_index)   + sum_l (F_l/m + 1) * b_index

All five are one formula: a kept unit has as many weights as the scheme says, each with its gradient, and, unless what
is left of the layer is a smaller dense one, one index; and a layer with indices has a pointer a row and one more. The
paper leaves the momentum out, and so does this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from .layer_rules import LayerPlan
from .schemes import Shape, get_scheme

_COPIES = 2
"""A weight and its gradient."""
_BITS = 8


@dataclass(frozen=True)
class Footprint:
    """What a layer or network holds; footprints add up.

    Attributes:
        weights: kept ones; a fraction where they come from a ratio and not from a mask.
        indices: column, kernel or block indices, likewise.
        pointers: row pointers, the last term of Table A.1, which its approximation leaves out.
    """

    weights: float = 0
    indices: float = 0
    pointers: int = 0

    def __add__(self, other: Footprint) -> Footprint:
        """Of both."""
        return Footprint(self.weights + other.weights, self.indices + other.indices, self.pointers + other.pointers)

    def bits(self, weight_bits: int = 32, index_bits: int = 16) -> float:
        """Table A.1, column "Memory Footprint"; Appendix B has weights of 16 or 32 bits and indices of 8 or 16."""
        return self.approximate_bits(weight_bits, index_bits) + self.pointers * index_bits

    def approximate_bits(self, weight_bits: int = 32, index_bits: int = 16) -> float:
        """Table A.1, column "Approximation": without the row pointers."""
        return _COPIES * self.weights * weight_bits + self.indices * index_bits

    def bytes(self, weight_bits: int = 32, index_bits: int = 16) -> float:
        """`bits`, in bytes."""
        return self.bits(weight_bits, index_bits) / _BITS


def dense_footprint(shape: Shape) -> Footprint:
    """Of a dense weight [F, C, kh, kw]: Table A.1, row "Dense"."""
    return Footprint(prod(shape))


def ratio_footprint(shape: Shape, scheme: str, sparsity: float) -> Footprint:
    """Of a sparse weight [F, C, kh, kw] at exactly this sparsity: Table A.1 as it is printed.

    Raises:
        ProfileError: an unknown scheme, or one that cannot have this shape or sparsity.
    """
    kind = get_scheme(scheme)
    kind.check_ratio("a layer", sparsity)
    return kept_footprint(shape, scheme, (1 - sparsity) * prod(shape) / kind.unit_size(shape))


def kept_footprint(shape: Shape, scheme: str, kept: float) -> Footprint:
    """Of a sparse weight [F, C, kh, kw] with this many kept units: Table A.1 with (1-s)N = kept * weights of a unit.

    Raises:
        ProfileError: an unknown scheme, or one that cannot have this shape.
    """
    kind = get_scheme(scheme)
    rows, _ = kind.grid(shape)
    weights = kept * kind.unit_size(shape)
    return Footprint(weights, kept, rows + 1) if kind.indexed else Footprint(weights)


def layer_footprint(shape: Shape, plan: LayerPlan | None) -> Footprint:
    """Of a weight [F, C, kh, kw] with the units that masks of this plan keep; None: dense.

    Raises:
        ProfileError: the plan's scheme cannot have this shape or sparsity.
    """
    if plan is None:
        return dense_footprint(shape)
    return kept_footprint(shape, plan.scheme, get_scheme(plan.scheme).kept_units(shape, plan.sparsity))


def network_footprint(shapes: Mapping[str, Shape], plan: Mapping[str, LayerPlan]) -> Footprint:
    """Of all these weights [F, C, kh, kw], by parameter name; those that the plan leaves out are dense.

    Raises:
        ProfileError: as `layer_footprint`.
    """
    return sum((layer_footprint(shape, plan.get(name)) for name, shape in shapes.items()), Footprint())
