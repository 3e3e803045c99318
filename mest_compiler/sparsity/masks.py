"""Masks of a network's sparse layers: drawn at random, kept in a file, or read off the zeros of its weights.

A mask is a bool array [F, C, kh, kw], True = kept; masks go by parameter name. Empty and full rows are legal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from mest_compiler.errors import MaskError, ProfileError
from mest_compiler.files import write_bytes

from .profile import LayerPlan
from .schemes import Shape, get_scheme, kernel_shape

Plan = Mapping[str, LayerPlan]
Shapes = Mapping[str, Shape]
Masks = dict[str, np.ndarray]


def random_masks(plan: Plan, shapes: Shapes, seed: int) -> Masks:
    """Balanced random masks (see `Scheme.random_mask`) of every layer in the plan.

    Each layer draws from a generator of its own, so its mask depends on seed, name, shape and plan alone.

    Args:
        plan: scheme and sparsity by parameter name.
        shapes: weight shape (F, C, kh, kw) by parameter name.
        seed: at least 0.

    Raises:
        MaskError: a negative seed, or a layer of the plan without a shape.
        ProfileError: a scheme that cannot have its layer's shape or ratio.
    """
    masks = {}
    for name, layer in plan.items():
        scheme, shape = get_scheme(layer.scheme), _shape_of(name, shapes)
        scheme.check_shape(name, shape)
        scheme.check_ratio(f"layer {name!r}", layer.sparsity)
        masks[name] = scheme.random_mask(shape, layer.sparsity, layer_generator(seed, name))
    return masks


def layer_generator(seed: int, name: str) -> np.random.Generator:
    """PCG64 seeded with (seed, sha256 of the name): the same in every process and on every machine.

    Raises:
        MaskError: a negative seed.
    """
    if seed < 0:
        raise MaskError(f"Masks cannot be drawn with seed {seed}: use a whole number, at least 0.")
    digest = np.frombuffer(hashlib.sha256(name.encode()).digest(), "<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *digest.tolist()])))


def save_masks(path: str | Path, masks: Mapping[str, np.ndarray]) -> None:
    """Write masks to a safetensors file, one bool tensor a parameter name; it appears whole or not at all.

    Raises:
        MaskError: an array is no mask, or the file cannot be written.
    """
    path = Path(path)
    for name, mask in masks.items():
        if mask.dtype != np.bool_ or mask.ndim != 4:
            raise MaskError(
                f"The mask of {name!r} is {mask.dtype} of shape {mask.shape}, not bool with four dimensions."
            )
    try:
        write_bytes(path, save({name: np.ascontiguousarray(mask) for name, mask in masks.items()}))
    except OSError as error:
        raise MaskError(f"Masks cannot be written to {path} ({error.strerror}): choose another path.") from error


def checked_masks(found: Mapping[str, np.ndarray], plan: Plan | None, shapes: Shapes, source: str | Path) -> Masks:
    """Masks that came from a file, once they are known to be this model's, as bool arrays in network order.

    They decide which units are kept, and so the ratio; the plan says which layers have masks, and their schemes.

    Args:
        found: arrays [F, C, kh, kw] of any dtype, all values exactly 0 or 1, by parameter name; a linear layer's may be
            [F, C].
        plan: scheme by parameter name; None takes masks of any of the model's layers, of whatever scheme.
        shapes: weight shape (F, C, kh, kw) by parameter name of every layer that may be sparse.
        source: the file, for errors.

    Raises:
        MaskError: they are of another model (the sentence names the first parameter that does not fit), are no masks,
            or a mask is not one of its layer's scheme.
    """
    for name in plan or {}:
        _shape_of(name, shapes)
    masks = {}
    for name in (*shapes, *(name for name in found if name not in shapes)):
        if name in found:
            masks[name] = _as_mask(source, name, found[name], shapes)
        if plan is not None and (name in found) != (name in plan):
            lacks = "lacks a" if name in plan else "has a"
            rule = "makes sparse" if name in plan else "keeps dense"
            raise MaskError(
                f"Mask file {source} {lacks} mask for {name!r}, which the profile {rule}: change one of them."
            )
    for name, layer in (plan or {}).items():
        try:
            scheme = get_scheme(layer.scheme)
            scheme.check_shape(name, masks[name].shape)
            scheme.mask_to_units(masks[name])
        except (MaskError, ProfileError) as error:
            raise MaskError(f"Mask file {source}, {name!r}: {error}") from error
    return masks


def masks_from_zeros(state: Mapping[str, np.ndarray], plan: Plan, shapes: Shapes) -> Masks:
    """The masks that zeros in weights stand for: a unit is kept when any of its weights is not zero.

    Args:
        state: weights by parameter name; other entries are ignored.
        plan: scheme by parameter name.
        shapes: weight shape (F, C, kh, kw) by parameter name.

    Raises:
        MaskError: a layer of the plan is missing, has another shape, is all zero, or keeps what no mask of its scheme
            can keep.
        ProfileError: a scheme that cannot have its layer's shape.
    """
    masks = {}
    for name, layer in plan.items():
        shape = _shape_of(name, shapes)
        if name not in state:
            raise MaskError(f"The weights lack {name!r}, whose zeros would be its mask: use this model's weights.")
        weight = state[name]
        if weight.ndim == 2:  # a linear layer's, in the plan one of 1x1 kernels
            weight = weight[:, :, None, None]
        if tuple(weight.shape) != shape:
            raise MaskError(
                f"Weight {name!r} has shape {tuple(weight.shape)} where the model has {shape}: use this "
                "model's weights."
            )
        scheme = get_scheme(layer.scheme)
        scheme.check_shape(name, shape)
        try:
            mask = scheme.cover(weight != 0)
        except MaskError as error:
            raise MaskError(f"The zeros of {name!r} are no mask: {error}") from error
        if not mask.any():
            raise MaskError(f"All weights of {name!r} are zero, which leaves no mask: keep this layer dense.")
        masks[name] = mask
    return masks


def _shape_of(name: str, shapes: Shapes) -> Shape:
    """Shape of a planned layer's weight."""
    if name not in shapes:
        raise MaskError(f"Layer {name!r} of the plan is no convolution of the model: assign the profile anew.")
    return tuple(shapes[name])


def _as_mask(source: str | Path, name: str, found: np.ndarray, shapes: Shapes) -> np.ndarray:
    """A bool mask of a parameter; raise MaskError unless the model has it in this shape, and all values are 0 or 1."""
    if name not in shapes:
        raise MaskError(f"Mask file {source} is of another model: this one has no layer {name!r} that can be sparse.")
    mask = found.reshape(kernel_shape(found.shape)) if found.ndim == 2 else found
    if mask.shape != tuple(shapes[name]):
        raise MaskError(
            f"Mask file {source} is of another model: its mask of {name!r} has shape {found.shape}, but the "
            f"weight has {tuple(shapes[name])}."
        )
    wrong = mask[(mask != 0) & (mask != 1)]
    if wrong.size:
        raise MaskError(f"Tensor {name!r} of mask file {source} has the value {wrong[0]}: store 0 or 1.")
    return mask.astype(np.bool_)
