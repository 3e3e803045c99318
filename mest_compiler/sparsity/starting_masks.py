"""The masks that a network starts with: the same ones whatever trains it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mest_compiler.errors import MaskError, ModelError

from .decisions import Decisions, all_dense
from .masks import Masks, masks_from_zeros, random_masks
from .profile import Profile
from .schemes import Shape, get_scheme, kernel_shape

NO_ZEROS = "The weights have no zeros that masks could be taken from: prune them by magnitude, or give other weights."


def starting_masks(
    profile: Profile | None,
    convolutions: Mapping[str, Shape],
    linears: Mapping[str, tuple[int, int]],
    weights: Mapping[str, np.ndarray],
    *,
    dense: Mapping[str, tuple[Shape, str]] | None = None,
    masks: Mapping[str, np.ndarray] | None = None,
    from_weights: bool = False,
    seed: int = 0,
) -> tuple[Decisions, Masks]:
    """What each layer gets, and the masks of those that are sparse: bool [F, C, kh, kw] by parameter name.

    Args:
        profile: which layers are sparse; None: none.
        convolutions: weight shape (F, C, kh, kw) by parameter name, in network order; linears: (F, C), likewise;
            dense: of the layers that stay dense, and why; see `unfit`.
        weights: by parameter name; only their zeros count, and only with `from_weights`.
        masks: for all layers of the profile; None: random balanced ones from `seed`.
        from_weights: take the masks from the zeros of the weights instead.

    Raises:
        ModelError: masks without a profile, from two places, or of other layers than the profile's. MaskError: a mask
            that is none of its layer's scheme.
        ProfileError, MaskError: see `Profile.decide`, `random_masks` and `masks_from_zeros`.
    """
    if masks is not None and from_weights:
        raise ModelError("Masks come either from the caller or from the zeros of the weights: give one of the two.")
    if profile is None:
        if masks or from_weights:
            raise ModelError("Masks need a profile that says which scheme their layers have: give one.")
        others = {name: shape for name, (shape, _) in (dense or {}).items()}
        every = {**convolutions, **linears, **others}
        return all_dense({name: kernel_shape(shape) for name, shape in every.items()}), {}
    decisions = profile.decide(convolutions, linears, dense)
    plan = decisions.plans
    shapes = {name: kernel_shape(shape) for name, shape in {**convolutions, **linears}.items()}
    if from_weights:
        masks = masks_from_zeros(weights, plan, shapes)
        if masks and all(mask.all() for mask in masks.values()):
            raise MaskError(NO_ZEROS)
    elif masks is None:
        masks = random_masks(plan, shapes, seed)
    missing, surplus = sorted(set(plan) - set(masks)), sorted(set(masks) - set(plan))
    if missing or surplus:
        what = f"has none for {missing[0]!r}" if missing else f"has one for {surplus[0]!r}, which is no sparse layer"
        raise ModelError(f"The masks do not fit the profile: the set {what}.")
    for name, layer in plan.items():
        get_scheme(layer.scheme).mask_to_units(masks[name])
    return decisions, {name: masks[name] for name in plan}
