"""What was asked of each layer and what is done: so that nothing stays dense, or gets another ratio, in silence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .layer_rules import DENSE, LayerPlan
from .schemes import Shape, get_scheme, kernel_shape

FIRST = "the first convolution: `first: sparse` in a profile changes that"
CLASSIFIER = "the last linear layer, which tells the classes apart: a profile that names it changes that"
LINEAR_BESIDE = "linear layers beside convolutions: `kinds: {linear: ...}` in a profile changes that"
GROUPED = "convolutions in groups"
FROZEN = "their weights are frozen"
BY_PROFILE = "as the profile says"
NO_SHARE = "their share of the overall sparsity is none"
BY_FILE = "as the checkpoint has them"
NEVER_ASKED = ""
"""Why layers stay dense, besides a scheme that cannot take one, which says so itself."""

_NAMED = 4
"""Layers of one kind that a sentence names."""


@dataclass(frozen=True)
class Decision:
    """What one layer gets.

    Attributes:
        name: of the weight. shape: of it, (F, C, kh, kw).
        asked: fraction of its weights that shall be zero; 0 where the profile itself wants it dense.
        plan: its scheme and ratio; None: dense.
        why: it is dense; empty where it is sparse, or where no sparsity was asked for.
    """

    name: str
    shape: Shape
    asked: float
    plan: LayerPlan | None
    why: str = NEVER_ASKED

    @property
    def size(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    def reached(self, mask: np.ndarray | None) -> float:
        """Fraction of zeros: of its mask, bool [F, C, kh, kw], or where there is none of the one that will be drawn."""
        if self.plan is None:
            return 0.0
        if mask is not None:
            return 1 - float(mask.mean())
        scheme = get_scheme(self.plan.scheme)
        return 1 - scheme.kept_units(self.shape, self.plan.sparsity) * scheme.unit_size(self.shape) / self.size


@dataclass(frozen=True)
class Decisions:
    """All layers of a network, sparse or not, in its order.

    Attributes:
        scheme: the one that was asked for where nothing else is said; None: a dense network was.
        layers: each with what it gets.
    """

    scheme: str | None
    layers: tuple[Decision, ...]

    @property
    def plans(self) -> dict[str, LayerPlan]:
        """Scheme and ratio of each sparse layer by its name."""
        return {layer.name: layer.plan for layer in self.layers if layer.plan is not None}

    def asked(self) -> dict[str, Any]:
        """`asked` of a result: the scheme, and the fraction of zeros among the weights of all layers."""
        return {"scheme": self.scheme, "sparsity": self._mean({layer.name: layer.asked for layer in self.layers})}

    def done(self, masks: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
        """`done` of a result: the fraction of zeros that all layers and the sparse ones get, and each layer's part.

        masks: bool [F, C, kh, kw] by name; a layer without one gets a random one at its ratio.
        """
        reached = self._reached(masks)
        of_sparse = {name: reached[name] for name in self.plans}
        return {
            "sparsity": self._mean(reached),
            "sparsity_of_sparse_layers": self._mean(of_sparse),
            "sparse_layers": len(of_sparse),
            "layers": [
                {
                    "name": layer.name,
                    "shape": list(layer.shape),
                    "scheme": DENSE if layer.plan is None else layer.plan.scheme,
                    "asked": layer.asked,
                    "sparsity": reached[layer.name],
                    "why": layer.why or None,
                }
                for layer in self.layers
            ],
        }

    def sentences(self, masks: Mapping[str, np.ndarray] | None = None) -> list[str]:
        """As the function of this name."""
        return sentences(self.asked(), self.done(masks))

    def _reached(self, masks: Mapping[str, np.ndarray] | None) -> dict[str, float]:
        return {layer.name: layer.reached((masks or {}).get(layer.name)) for layer in self.layers}

    def _mean(self, ratios: Mapping[str, float]) -> float:
        """The layers' ratios, each counted by its weights; 0 of none."""
        sizes = {layer.name: layer.size for layer in self.layers if layer.name in ratios}
        return sum(ratios[name] * size for name, size in sizes.items()) / sum(sizes.values()) if sizes else 0.0


def sentences(asked: Mapping[str, Any], done: Mapping[str, Any]) -> list[str]:
    """What is to be said of `Decisions.asked` and `done` before a network is compiled or trained: what is reached, and
    a sentence a reason for which layers stay dense. Nothing of a network that nobody wants to be sparse.
    """
    if not asked["sparsity"]:
        return []
    by_reason: dict[str, list[str]] = {}
    for layer in done["layers"]:
        if layer["scheme"] == DENSE:
            by_reason.setdefault(layer["why"], []).append(layer["name"])
    found = "no layer is sparse"
    if done["sparse_layers"]:
        of_all = f"{done['sparse_layers']} of {len(done['layers'])} layers"
        found = f"{done['sparsity_of_sparse_layers']:.2%} in {of_all}"
    return [
        f"sparsity: {asked['sparsity']:.2%} asked ({asked['scheme']}), {done['sparsity']:.2%} reached: {found}",
        *(f"dense: {_listed(names)} ({why})" for why, names in by_reason.items()),
    ]


def unfit(layers: Mapping[str, Sequence[int]], frozen: Collection[str]) -> dict[str, tuple[Shape, str]]:
    """Layers that cannot be sparse: the weight's shape as (F, C, kh, kw), and why."""
    return {name: (kernel_shape(shape), FROZEN if name in frozen else GROUPED) for name, shape in layers.items()}


def all_dense(layers: Mapping[str, Shape]) -> Decisions:
    """Of a network that nobody asked to be sparse."""
    return Decisions(None, tuple(Decision(name, tuple(shape), 0.0, None) for name, shape in layers.items()))


def as_masked(layers: Mapping[str, Shape], schemes: Mapping[str, str], masks: Mapping[str, np.ndarray]) -> Decisions:
    """Of a network that goes on with these schemes and masks, bool [F, C, kh, kw], by name."""
    ratios = {name: 1 - float(mask.mean()) for name, mask in masks.items()}
    found = [
        Decision(name, tuple(shape), ratios[name], LayerPlan(schemes[name], ratios[name]))
        if name in masks
        else Decision(name, tuple(shape), 0.0, None, BY_FILE)
        for name, shape in layers.items()
    ]
    kinds = dict.fromkeys(schemes[name] for name in masks)
    return Decisions(", ".join(kinds) or None, tuple(found))


def _listed(names: list[str]) -> str:
    """ "a, b, c, d and 3 more"."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
