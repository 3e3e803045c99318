"""The convolutions and linear layers of a torch module in the order of its forward pass, without tracing it.

Tracing says the same and more, but takes seconds; a look at a profile should be as quick as changing it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from mest_compiler.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from mest_compiler.sparsity.schemes import Shape


_CONV2D = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
"""Arguments of torch.conv2d by position; the first three are those of linear too."""


@dataclass(frozen=True)
class NetworkLayers:
    """Weight shapes by parameter name, in the order in which the layers first run.

    Attributes:
        convolutions: (F, C, kh, kw) of those that may be sparse.
        linears: (F, C) of the linear layers.
        grouped: (F, C / groups, kh, kw) of grouped convolutions, which stay dense.
        order: the names of them all.
        outputs: logits of an example; None where the model returns something else.
    """

    convolutions: dict[str, Shape] = field(default_factory=dict)
    linears: dict[str, tuple[int, int]] = field(default_factory=dict)
    grouped: dict[str, Shape] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    outputs: int | None = None

    def shape(self, name: str) -> Shape:
        """Of a weight as (F, C, kh, kw); a linear layer's kernel is 1x1."""
        if name in self.linears:
            return (*self.linears[name], 1, 1)
        return (self.convolutions if name in self.convolutions else self.grouped)[name]

    def shapes(self) -> dict[str, Shape]:
        """Of all weights by name, as `shape`."""
        return {name: self.shape(name) for name in self.order}

    def weights(self) -> int:
        """Number of weights of all layers."""
        return sum(prod(self.shape(name)) for name in self.order)


def network_layers(model: nn.Module, input_shape: tuple[int, int, int]) -> NetworkLayers:
    """The layers that a forward pass in eval mode runs, called as modules or as functions; the model is left as it is.

    Args:
        model: takes float32 [1, *input_shape].
        input_shape: channels, height, width of one example.

    Raises:
        ModelError: the forward pass fails.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    found = NetworkLayers()
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def note(func: Callable, weight: torch.Tensor, groups: int) -> None:
        name = names.get(id(weight))
        if name is None or name in found.order:
            return
        found.order.append(name)
        if func is torch.nn.functional.linear:
            found.linears[name] = tuple(weight.shape)
        elif groups == 1:
            found.convolutions[name] = tuple(weight.shape)
        else:
            found.grouped[name] = tuple(weight.shape)

    class Calls(TorchFunctionMode):
        """Notes every call of a layer's function, which its module makes too."""

        def __torch_function__(self, func, types, args=(), kwargs=None):
            given = dict(kwargs or {})
            if func in (torch.conv2d, torch.nn.functional.linear):
                named = dict(zip(_CONV2D, args, strict=False)) | given
                note(func, named["weight"], named.get("groups", 1))
            return func(*args, **given)

    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), Calls():
            logits = model.eval()(torch.zeros(1, *input_shape))
    except Exception as error:  # a user's forward may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"The model cannot be run on an input of shape {[1, *input_shape]} ({reason}): give the --plane and "
            "--channels it is made for."
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    whole = isinstance(logits, torch.Tensor) and logits.dim() == 2 and len(logits) == 1
    return replace(found, outputs=logits.shape[1]) if whole else found
