"""Masks of a network's sparse layers: drawn at random, kept in a file, or read off the zeros of its weights.

A mask is a bool array [F, C, kh, kw], True = kept; masks go by parameter name. Empty and full rows are legal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mest_compiler.errors import MaskError, ProfileError
from mest_compiler.files import write_bytes

from .profile import LayerPlan
from .schemes import Shape, get_scheme

Plan = Mapping[str, LayerPlan]
Shapes = Mapping[str, Shape]
Masks = dict[str, np.ndarray]
_MASK_DTYPES = ("BOOL", "U8")


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


def load_masks(path: str | Path, plan: Plan | None, shapes: Shapes) -> Masks:
    """Masks of a safetensors file with one bool or uint8 (0 and 1) tensor a parameter name, in network order.

    The file decides which units are kept, and so the ratio; the plan says which layers have masks, and their
    schemes.

    Args:
        path: the file.
        plan: scheme by parameter name; None takes masks of any of the model's layers, of whatever scheme.
        shapes: weight shape (F, C, kh, kw) by parameter name of every convolution that may be sparse.

    Raises:
        MaskError: the file is missing or damaged, is of another model (the sentence names the first parameter
            that does not fit), or a mask is not one of its layer's scheme.
    """
    for name in plan or {}:
        _shape_of(name, shapes)
    found = _read(Path(path))
    for name in (*shapes, *(name for name in found if name not in shapes)):
        if name in found:
            _check_fits(path, name, found[name], shapes)
        if plan is not None and (name in found) != (name in plan):
            lacks = "lacks a" if name in plan else "has a"
            rule = "makes sparse" if name in plan else "keeps dense"
            raise MaskError(
                f"Mask file {path} {lacks} mask for {name!r}, which the profile {rule}: change one of them."
            )
    for name, layer in (plan or {}).items():
        try:
            scheme = get_scheme(layer.scheme)
            scheme.check_shape(name, found[name].shape)
            scheme.mask_to_units(found[name])
        except (MaskError, ProfileError) as error:
            raise MaskError(f"Mask file {path}, {name!r}: {error}") from error
    return {name: found[name] for name in shapes if name in found}


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


def _check_fits(path: str | Path, name: str, mask: np.ndarray, shapes: Shapes) -> None:
    """Raise MaskError unless the model has this parameter in this shape."""
    if name not in shapes:
        raise MaskError(f"Mask file {path} is of another model: this one has no convolution {name!r}.")
    if mask.shape != tuple(shapes[name]):
        raise MaskError(
            f"Mask file {path} is of another model: its mask of {name!r} has shape {mask.shape}, but the "
            f"weight has {tuple(shapes[name])}."
        )


def _read(path: Path) -> Masks:
    """All tensors of a mask file as bool arrays."""
    masks = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in sorted(file.keys()):
                dtype = file.get_slice(name).get_dtype()
                if dtype not in _MASK_DTYPES:
                    raise MaskError(f"Tensor {name!r} of mask file {path} is {dtype}: store bool or uint8.")
                mask = file.get_tensor(name)
                largest = mask.max(initial=0)
                if largest > 1:
                    raise MaskError(f"Tensor {name!r} of mask file {path} has the value {largest}: store 0 or 1.")
                masks[name] = mask.astype(np.bool_)
    except (OSError, SafetensorError) as error:
        raise MaskError(f"Mask file {path} cannot be read ({error}): give a safetensors file.") from error
    return masks
