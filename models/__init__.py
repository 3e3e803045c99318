"""The networks this project is about, and the one way to get a model by name: `available` and `build`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from math import isfinite
from numbers import Integral, Real

import torch
from torch import nn

from mest_compiler.errors import ModelError

from .from_file import build_from_file
from .keywords import CLASSES
from .mobilenet import mobilenet_v2, mobilenet_v2_cifar
from .resnet import resnet18, resnet18_cifar, resnet34, resnet34_cifar, resnet50, resnet50_cifar
from .resnet_cifar import resnet20, resnet32, resnet110
from .vgg import vgg19_bn

__all__ = ["CLASSES", "available", "build", "usual_plane"]

_MODELS: dict[str, Callable[..., nn.Module]] = {
    model.__name__: model
    for model in (
        resnet20, resnet32, resnet110, vgg19_bn,
        resnet18, resnet34, resnet50, mobilenet_v2,
        resnet18_cifar, resnet34_cifar, resnet50_cifar, mobilenet_v2_cifar,
    )
}  # fmt: skip

_FOR_LARGE_IMAGES = frozenset({"resnet18", "resnet34", "resnet50", "mobilenet_v2"})


def usual_plane(name: str) -> tuple[int, int]:
    """Height and width of the images that a model of this name is made for; of a model of one's own, small ones."""
    return (224, 224) if name in _FOR_LARGE_IMAGES else (32, 32)


def available() -> tuple[str, ...]:
    """Names that `build` knows."""
    return tuple(_MODELS)


def build(
    name: str, *, classes: int = 10, in_channels: int = 3, width: float = 1, seed: int | None = None
) -> nn.Module:
    """A freshly initialised model, drawn from torch's global generator.

    Args:
        name: one of `available()`, or "file.py:callable" for a model of one's own. The callable gets those of
            the arguments below that it takes, by keyword, under the names that are usual for them (`num_classes`,
            `in_chans`, `width_mult` ...; all stand in `keywords`).
        classes: number of logits.
        in_channels: channels of the input.
        width: factor on the channels of every layer; 2 for the paper's ResNet-32. 1 leaves a network as it is built, so
            a callable with a width of its own keeps that; any other is refused where the callable takes none.
        seed: what that generator starts from; None goes on with it as it is.

    Raises:
        ModelError: no such model, file or callable, one that fails or returns no nn.Module, or sizes that
            make no network.
    """
    for what, size in (("classes", classes), ("in_channels", in_channels)):
        if not isinstance(size, Integral) or size < 1:
            raise ModelError(f"A model cannot be built with {what}={size!r}: use a whole number, at least 1.")
    if not isinstance(width, Real) or not isfinite(width) or width <= 0:
        raise ModelError(f"A model cannot be built with width={width!r}: use a number above 0.")
    if seed is not None:
        torch.manual_seed(seed)
    arguments = {"classes": classes, "in_channels": in_channels, "width": width}
    if name in _MODELS:
        return _MODELS[name](**arguments)
    # From the right: a path may hold a colon of its own, a callable's name cannot.
    path, colon, attribute = name.rpartition(":")
    if colon:
        return build_from_file(path, attribute, arguments)
    close = difflib.get_close_matches(name, _MODELS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ModelError(
        f"There is no model {name!r}{hint}: use one of {', '.join(_MODELS)}, or file.py:callable for your own."
    )
