"""What the options about a model and its masks mean: the torch module, its profile and its masks."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mest_compiler.errors import MaskError, ModelError, ProfileError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from mest_compiler.sparsity.automatic import Automatic
    from mest_compiler.sparsity.masks import Shapes
    from mest_compiler.sparsity.profile import Profile

AUTO = "auto"
_PLANE = re.compile(r"(\d+)x(\d+)")


def _plane(text: str | None) -> str | None:
    if text is None:
        return None
    match = _PLANE.fullmatch(text)
    if match is None or "0" in match.groups():
        raise typer.BadParameter(f"{text!r} is not a plane: write HEIGHTxWIDTH, such as 32x32")
    return text


Width = Annotated[
    float,
    typer.Option(
        help="Factor on the channels of every layer, such as 2 for ResNet-32 as in the paper; 1 leaves a model as it "
        "is built, and a model of one's own that takes none is refused with any other."
    ),
]
Channels = Annotated[int, typer.Option(min=1, help="Channels of the input: 3 for colour images, 1 for grey ones.")]
Plane = Annotated[
    str, typer.Option(callback=_plane, metavar="HxW", help="Height and width of the input, such as 32x32.")
]
UsualPlane = Annotated[
    str | None,
    typer.Option(
        callback=_plane,
        metavar="HxW",
        help="Height and width of the input, such as 32x32.",
        show_default="what the model is made for: 224x224 or 32x32",
    ),
]
Classes = Annotated[
    int,
    typer.Option(
        min=1, help="Classes that the model tells apart; where this is given, a model with another number is refused."
    ),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="Masks instead of random ones: a safetensors file with one bool or uint8 tensor (F, C, kh, kw) "
        "a parameter name.",
    ),
]
MasksFrom = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="WEIGHTS",
        help="Start from these weights and take the masks from their zeros: a .safetensors file, or a state_dict "
        "that torch.save wrote.",
    ),
]


def plane_of(text: str) -> tuple[int, int]:
    """(height, width) of "HxW"."""
    height, width = _PLANE.fullmatch(text).groups()
    return int(height), int(width)


@dataclass(frozen=True)
class SparseModel:
    """What `compile_step` needs to know of a model: see its arguments of the same names."""

    model: nn.Module
    profile: Profile | Automatic | None
    masks: Mapping[str, np.ndarray] | None
    masks_from_weights: bool


def profile_of(scheme: str | None, sparsity: float | None, profile: Path | None) -> Profile | Automatic | None:
    """The profile that --scheme, --sparsity and --profile describe; None for a dense model.

    A file in the form of the MEST authors' scripts (`prune_ratios`) may take its scheme from --scheme.

    Raises:
        ProfileError: both a file and a ratio, a scheme that the file says itself, or a scheme without a ratio or the
            other way round.
    """
    from mest_compiler.sparsity.automatic import Automatic
    from mest_compiler.sparsity.profile import Profile

    if profile is not None:
        if sparsity is not None:
            raise ProfileError("A profile says all ratios: leave out --sparsity, or --profile.")
        return Profile.load(profile, scheme)
    if sparsity == 0:
        return None
    if (scheme is None) != (sparsity is None):
        given, lacking = ("scheme", "sparsity") if sparsity is None else ("sparsity", "scheme")
        raise ProfileError(f"--{given} was given without --{lacking}: add it, as in --scheme block --sparsity 0.9.")
    if scheme == AUTO:
        return Automatic(sparsity)
    return None if scheme is None else Profile.uniform(scheme, sparsity)


def sparse_model(
    model: nn.Module,
    *,
    scheme: str | None,
    sparsity: float | None,
    profile: Path | None,
    masks: Path | None,
    masks_from: Path | None,
) -> SparseModel:
    """The model with its profile and masks; with `masks_from`, with those weights.

    With masks or weights and a scheme, but no ratio, the masks themselves say which layers are sparse.

    Raises:
        ProfileError, MaskError, ModelError: options that contradict each other, or a file that does not fit the model.
    """
    if masks is not None and masks_from is not None:
        raise MaskError("Masks come from a mask file or from the zeros of weights: leave out --masks or --masks-from.")
    if masks is None and masks_from is None:
        return SparseModel(model, profile_of(scheme, sparsity, profile), None, False)
    if scheme is None and profile is None:
        raise ProfileError("Masks need to know their scheme: add --scheme (and --sparsity), or --profile.")
    if masks_from is not None:
        load_weights(model, masks_from)
    if scheme == AUTO and profile is None:
        from mest_compiler.sparsity.automatic import Automatic

        given = None if masks is None else _masks_of_file(model, masks)
        # A full mask is a dense layer's.
        sparse = given and {name: mask for name, mask in given.items() if not mask.all()}
        return SparseModel(model, Automatic(sparsity), sparse, masks is None)
    if profile is not None or sparsity is not None:
        rules = profile_of(scheme, sparsity, profile)
        return SparseModel(model, rules, masks and _masks_of_file(model, masks), masks_from is not None)
    found = _masks_of_zeros(model, scheme) if masks is None else _masks_of_file(model, masks, scheme)
    return SparseModel(model, _profile_of_masks(found, scheme), found, False)


def load_weights(model: nn.Module, path: Path) -> None:
    """Give the model the weights of a safetensors file or of a state_dict that torch.save wrote.

    Raises:
        ModelError: the file cannot be read, holds something else, or is of another model.
    """
    state = _read_state(path)
    own = model.state_dict()
    for name in (*own, *state):
        if name not in state:
            raise ModelError(f"Weights {path} are of another model: they lack {name!r}.")
        if name not in own:
            raise ModelError(f"Weights {path} are of another model: this one has no {name!r}.")
        if state[name].shape != own[name].shape:
            raise ModelError(
                f"Weights {path} are of another model: their {name!r} has shape {list(state[name].shape)}, and the "
                f"model's {list(own[name].shape)}."
            )
    model.load_state_dict(state)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(
            f"Weights {path} cannot be read ({reason}): give a .safetensors file, or a state_dict saved by torch.save."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"Weights {path} hold no state_dict: save model.state_dict() and nothing around it.")
    return dict(state)


def _masks_of_file(model: nn.Module, path: Path, scheme: str | None = None) -> dict[str, np.ndarray]:
    """Masks of a file, checked against the model and, where one is given, against the scheme."""
    from mest_compiler.sparsity.masks import load_masks
    from mest_compiler.sparsity.profile import LayerPlan

    shapes = _maskable(model)
    found = load_masks(path, None, shapes)
    if scheme is not None:
        load_masks(path, {name: LayerPlan(scheme, 0.0) for name in found}, shapes)
    return found


def _masks_of_zeros(model: nn.Module, scheme: str) -> dict[str, np.ndarray]:
    """Masks of the ungrouped convolutions that have a unit without any weight but zero."""
    from torch import nn

    from mest_compiler.sparsity.masks import masks_from_zeros
    from mest_compiler.sparsity.profile import LayerPlan

    weights = {
        f"{name}.weight": module.weight.detach().numpy()
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1
    }
    thin = {name: weight for name, weight in weights.items() if not weight.all()}
    plan = {name: LayerPlan(scheme, 0.0) for name in thin}
    return masks_from_zeros(thin, plan, {name: weight.shape for name, weight in thin.items()})


def _profile_of_masks(masks: dict[str, np.ndarray], scheme: str) -> Profile:
    """A profile in which exactly these layers are sparse, at their masks' ratios; full masks are taken out."""
    from mest_compiler.sparsity.profile import LayerPlan, Profile

    for name in [name for name, mask in masks.items() if mask.all()]:
        del masks[name]
    ratios = {name: LayerPlan(scheme, 1 - float(mask.mean())) for name, mask in masks.items()}
    return Profile(LayerPlan(scheme, 0.0), layers=ratios)


def _maskable(model: nn.Module) -> Shapes:
    """Shapes (F, C, kh, kw) of the parameters that masks can be of; a linear layer's kernel is 1x1."""
    from mest_compiler.sparsity.schemes import kernel_shape

    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return {name: kernel_shape(shape) for name, shape in shapes.items() if len(shape) in (2, 4)}
