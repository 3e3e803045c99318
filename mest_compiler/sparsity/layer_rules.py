"""What can be said about a layer: a plan says all, a rule leaves the rest to what is more general."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mest_compiler.errors import ProfileError

from .schemes import Shape, check_sparsity, get_scheme

DENSE, LINEAR = "dense", "linear"
_KERNEL = re.compile(r"[1-9]\d*x[1-9]\d*")


@dataclass(frozen=True)
class LayerPlan:
    """What one sparse layer gets.

    Attributes:
        scheme: a name in the registry; an alias is replaced by the name.
        sparsity: fraction of the layer's weights that are zero, in [0, 1).
    """

    scheme: str
    sparsity: float

    def __post_init__(self) -> None:
        """Normalise the spelling; raise ProfileError for an unknown scheme or a ratio outside [0, 1)."""
        check_sparsity("a layer", self.sparsity)
        object.__setattr__(self, "scheme", get_scheme(self.scheme).name)
        object.__setattr__(self, "sparsity", float(self.sparsity))


@dataclass(frozen=True)
class Rule:
    """A plan of which a part may be left out.

    Attributes:
        scheme: as in a plan; None: as the next more general rule says.
        sparsity: as in a plan, 0 meaning dense; None: as the next more general rule says, and if none says it, the
            share of the overall sparsity that the profile's ratio gives to the layer.
    """

    scheme: str | None = None
    sparsity: float | None = None

    def __post_init__(self) -> None:
        """As a plan's."""
        if self.scheme is not None:
            object.__setattr__(self, "scheme", get_scheme(self.scheme).name)
        if self.sparsity is not None:
            check_sparsity("a rule", self.sparsity)
            object.__setattr__(self, "sparsity", float(self.sparsity))


@dataclass(frozen=True)
class Layer:
    """A convolution, or a linear layer [F, C] seen as one of 1x1 kernels.

    Attributes:
        name: of the weight.
        shape: of the weight, (F, C, kh, kw).
        linear: whether it is a linear layer. first: whether it is the network's first convolution.
    """

    name: str
    shape: Shape
    linear: bool = False
    first: bool = False

    @property
    def kind(self) -> str:
        """Its key in a profile's `kinds`."""
        return LINEAR if self.linear else "x".join(str(size) for size in self.shape[2:])


def check_kind(kind: object) -> None:
    """Raise ProfileError unless this can be the kind of a layer: a kernel "HxW", or "linear"."""
    if not isinstance(kind, str) or (kind != LINEAR and not _KERNEL.fullmatch(kind)):
        raise ProfileError(f"{kind!r} is no kind of layers: write a kernel, such as 3x3, or {LINEAR}.")
