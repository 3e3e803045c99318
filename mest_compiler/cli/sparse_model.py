"""What a step starts from, as the options say it: a model with its weights, and which of them its masks keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mest_compiler.cli.model_options import AUTO, profile_of
from mest_compiler.cli.sparse_request import SparseRequest
from mest_compiler.errors import MaskError, ProfileError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from mest_compiler.cli.network_layers import NetworkLayers
    from mest_compiler.signature import TensorSpec
    from mest_compiler.sparsity.automatic import Automatic
    from mest_compiler.sparsity.masks import Shapes
    from mest_compiler.sparsity.profile import LayerPlan, Profile
    from mest_compiler.training.weights_file import Taken

TOLERANCE = 0.01
"""So far the sparsity of given masks may be from the one that was asked for: units are not always to be had evenly."""
MANY_ZEROS = 0.01
"""Fraction of zeros from which on weights look as if they had been pruned."""


@dataclass(frozen=True)
class SparseModel:
    """What `compile_step` needs to know of a model: see its arguments of the same names.

    said: what is to be printed of it, a sentence a line. weights: what was made of the file of weights, as JSON values,
    None where there is none. start: where its masks are from, "random", "masks", "zeros" or "magnitude", and of given
    ones their file, fraction of zeros and number of layers.
    """

    model: nn.Module
    profile: Profile | Automatic | None
    masks: Mapping[str, np.ndarray] | None
    said: tuple[str, ...] = ()
    weights: dict[str, Any] | None = None
    start: dict[str, Any] = field(default_factory=lambda: {"from": "random"})

    def facts(self) -> dict[str, Any]:
        """JSON values for a command's result."""
        return {"weights": self.weights, "masks": self.start}


def sparse_model(
    model: nn.Module,
    inputs: Sequence[int] | Mapping[str, TensorSpec],
    asked: SparseRequest,
    otherwise: str | None = None,
) -> SparseModel:
    """The model with its weights, profile and masks.

    Args:
        model: is given the weights, where there are any.
        inputs: of one example, as of `network_layers`.
        asked: with masks a ratio may be left out.
        otherwise: as of `profile_of`.

    Raises:
        ProfileError, MaskError, ModelError: options that contradict each other, or a file that does not fit the model.
    """
    from mest_compiler.cli.network_layers import network_layers
    from mest_compiler.sparsity.automatic import Automatic
    from mest_compiler.sparsity.magnitude import magnitude_masks
    from mest_compiler.training.weights_file import load_weights

    asked.check()
    scheme, sparsity, profile, ratios = asked.scheme, asked.sparsity, asked.profile, asked.profile_ratios
    masked = asked.masks is not None or asked.masks_from is not None
    if masked and scheme is None and profile is None:
        raise ProfileError("Masks need to know their scheme: add --scheme (and --sparsity), or --profile.")
    # Masks say the ratio themselves, so that a scheme is enough.
    alone = masked and profile is None and ratios is None
    rules = None if alone else profile_of(scheme, sparsity, profile, ratios, otherwise)
    said = [f"profile {profile}: {note}" for note in getattr(rules, "notes", ())]
    file, taken = asked.weights or asked.masks_from, None
    if file is not None:
        taken = load_weights(model, file, asked.weights_key)
        said.append(taken.sentence("weights"))
    facts = taken and taken.facts()
    if not masked and (file is None or rules is None):
        if file is not None:
            said += _unused_zeros(model)
        return SparseModel(model, rules, None, tuple(said), facts)
    if isinstance(rules, Automatic):
        raise ProfileError(
            "Scheme 'auto' cannot be had with --weights and a sparsity, since its scheme decides which units of the "
            "weights are kept: name a scheme."
        )
    layers, weights = network_layers(model, inputs), _weights(model)
    plan = None if rules is None else rules.assign(layers.convolutions, layers.linears)
    if asked.masks is not None:
        masks, of_file = _of_file(asked.masks, plan, scheme, layers)
        said.append(of_file.sentence("masks"))
        start = {"from": "masks", **of_file.facts()}
    elif asked.masks_from is not None:
        masks, dense = _of_zeros(asked.masks_from, plan, scheme, layers, weights)
        said += dense
        start = {"from": "zeros"}
    else:
        masks = magnitude_masks(plan, weights)
        start = {"from": "magnitude"}
    start |= {"sparsity": _zeros(masks), "layers": len(masks)}
    if masked:
        _check_asked(sparsity, plan, masks)
    said.append(_described(start, masks, weights, layers))
    if rules is None:
        rules = Automatic(None) if scheme == AUTO else profile_of_masks(masks, scheme)
    return SparseModel(model, rules, masks, tuple(said), facts, start)


def profile_of_masks(masks: Mapping[str, np.ndarray], scheme: str) -> Profile:
    """A profile in which exactly these layers are sparse, at their masks' ratios."""
    from mest_compiler.sparsity.profile import LayerPlan, Profile

    ratios = {name: LayerPlan(scheme, 1 - float(mask.mean())) for name, mask in masks.items()}
    return Profile(LayerPlan(scheme, 0.0), layers=ratios)


def _weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def _of_file(
    path: Path, plan: Mapping[str, LayerPlan] | None, scheme: str | None, layers: NetworkLayers
) -> tuple[dict[str, np.ndarray], Taken]:
    """Masks of a file, checked against the model and the scheme; a full one is a dense layer's, unless planned."""
    from mest_compiler.sparsity.masks import checked_masks
    from mest_compiler.sparsity.profile import LayerPlan
    from mest_compiler.training.masks_file import read_masks

    shapes = _shapes(layers)
    found, taken = read_masks(path, plan, shapes)
    if plan is not None:
        return found, taken
    masks = {name: mask for name, mask in found.items() if not mask.all()}
    if not masks:
        raise MaskError(f"Mask file {path} removes nothing: give masks with zeros, or leave out --masks.")
    if scheme != AUTO:
        checked_masks(masks, {name: LayerPlan(scheme, 0.0) for name in masks}, shapes, path)
    return masks, taken


def _of_zeros(
    path: Path,
    plan: Mapping[str, LayerPlan] | None,
    scheme: str | None,
    layers: NetworkLayers,
    weights: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Masks of the layers that have zeros (with a plan of all that it names), and of those with zeros that stay dense
    what is to be said."""
    from mest_compiler.sparsity.masks import masks_from_zeros
    from mest_compiler.sparsity.profile import LayerPlan

    thin = [name for name in layers.order if not weights[name].all()]
    if not thin:
        raise MaskError(
            f"Weights {path} have no zeros that masks could be taken from: --weights with --scheme and --sparsity "
            "prunes them by magnitude."
        )
    dense: dict[str, str] = {}
    if plan is None:
        kind = "unstructured" if scheme == AUTO else scheme
        refused = {name: _refusal(name, kind, layers) for name in thin}
        dense = {name: reason for name, reason in refused.items() if reason is not None}
        wanted = {name: LayerPlan(kind, 0.0) for name in thin if name not in dense}
    else:
        wanted = plan
        dense = dict.fromkeys((name for name in thin if name not in plan), "the profile keeps it dense")
    masks = masks_from_zeros(weights, wanted, _shapes(layers))
    if plan is not None and (whole := [name for name, mask in masks.items() if mask.all()]):
        raise MaskError(
            f"Weights {path} have no zeros in {whole[0]!r} that make a mask, but the profile makes it sparse: change "
            "one of them."
        )
    masks = {name: mask for name, mask in masks.items() if not mask.all()}
    if not masks:
        raise MaskError(
            f"Weights {path} have no zeros that make a mask of scheme {scheme!r}: name the scheme that they were "
            "pruned by, or prune them by magnitude (--weights with --sparsity)."
        )
    return masks, [
        f"{name} has {_share(1 - weights[name].astype(bool).mean())} zeros and is trained dense: {reason}"
        for name, reason in dense.items()
    ]


def _refusal(name: str, scheme: str, layers: NetworkLayers) -> str | None:
    """Why a layer cannot be sparse under a scheme; None where it can."""
    from mest_compiler.sparsity.profile import LayerPlan, Profile
    from mest_compiler.sparsity.schemes import get_scheme

    if name in layers.dense:
        return layers.dense[name][1]
    ratio = max(get_scheme(scheme).lowest, 1e-9)  # 0 would be dense whatever the scheme
    try:
        named = Profile(LayerPlan(scheme, 0.0), layers={name: LayerPlan(scheme, ratio)})
        named.assign(layers.convolutions, layers.linears)
    except ProfileError as error:
        return str(error)
    return None


def _check_asked(sparsity: float | None, plan: Mapping[str, LayerPlan] | None, masks: Mapping[str, np.ndarray]) -> None:
    """Raise MaskError if the masks are far from the sparsity that was asked for beside them."""
    found, asked = _zeros(masks), sparsity
    if plan:
        asked = sum(layer.sparsity * masks[name].size for name, layer in plan.items())
        asked /= sum(masks[name].size for name in plan)
    if asked is not None and abs(found - asked) > TOLERANCE:
        raise MaskError(
            f"The masks remove {_share(found)} of the weights of their layers, where {_share(asked)} is asked for: "
            "leave out the sparsity, which masks say themselves, or prune to it with --weights."
        )


def _described(
    start: Mapping[str, Any], masks: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], layers: NetworkLayers
) -> str:
    """In a sentence where the masks are from, and how much they remove."""
    ways = {"masks": "of the file", "zeros": "from the zeros of the weights", "magnitude": "by magnitude"}
    words = (
        f"masks {ways[start['from']]}: {len(masks)} of {len(layers.order)} layers are sparse, with "
        f"{_share(start['sparsity'])} zeros"
    )
    if start["from"] == "magnitude":
        size = sum(abs(weights[name]).sum(dtype="float64") for name in masks)
        kept = sum(abs(weights[name].reshape(mask.shape)[mask]).sum(dtype="float64") for name, mask in masks.items())
        words += f"; they keep {_share(kept / size if size else 0.0)} of the sum of |w|"
    if start["from"] == "zeros":
        zeros = 1 - sum(weights[name].astype(bool).sum() for name in masks) / sum(mask.size for mask in masks.values())
        if zeros - start["sparsity"] > TOLERANCE:
            words += f"; of the weights {_share(zeros)} are zero, some in units that are kept"
    return words


def _unused_zeros(model: nn.Module) -> list[str]:
    """What is to be said of pruned weights that are trained without masks."""
    kernels = [weight for weight in _weights(model).values() if weight.ndim in (2, 4)]
    zeros = 1 - sum(weight.astype(bool).sum() for weight in kernels) / max(sum(weight.size for weight in kernels), 1)
    if zeros < MANY_ZEROS:
        return []
    return [f"{_share(zeros)} of the weights are zero and are trained as all others: --masks-from keeps them zero"]


def _zeros(masks: Mapping[str, np.ndarray]) -> float:
    """Fraction of the weights of masked layers that is removed."""
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / max(sum(mask.size for mask in masks.values()), 1)


def _share(part: float) -> str:
    return f"{100 * part:.2f} %"


def _shapes(layers: NetworkLayers) -> Shapes:
    """Shapes (F, C, kh, kw) of the weights that masks can be of; a linear layer's kernel is 1x1."""
    return {name: layers.shape(name) for name in layers.order if name not in layers.dense}
