"""The convolutions and linear layers of a torch module in the order of its forward pass, without tracing it.

Tracing says the same and more, but takes seconds; a look at a profile should be as quick as changing it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from mest_compiler.errors import ModelError
from mest_compiler.signature import TensorSpec

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
        dense: of layers that cannot be sparse, the shape as (F, C, kh, kw) and why; see `sparsity.decisions.unfit`.
        order: the names of them all.
        outputs: what the model returns for an example, by name.
    """

    convolutions: dict[str, Shape] = field(default_factory=dict)
    linears: dict[str, tuple[int, int]] = field(default_factory=dict)
    dense: dict[str, tuple[Shape, str]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    outputs: dict[str, TensorSpec] = field(default_factory=dict)

    def shape(self, name: str) -> Shape:
        """Of a weight as (F, C, kh, kw); a linear layer's kernel is 1x1."""
        if name in self.linears:
            return (*self.linears[name], 1, 1)
        return self.convolutions[name] if name in self.convolutions else self.dense[name][0]

    def shapes(self) -> dict[str, Shape]:
        """Of all weights by name, as `shape`."""
        return {name: self.shape(name) for name in self.order}

    def weights(self) -> int:
        """Number of weights of all layers."""
        return sum(prod(self.shape(name)) for name in self.order)


def network_layers(model: nn.Module, inputs: Sequence[int] | Mapping[str, TensorSpec]) -> NetworkLayers:
    """The layers that a forward pass in eval mode runs, called as modules or as functions; the model is left as it is.

    Args:
        model: takes inputs [1, ...].
        inputs: of one example, by name; of a model of one float32 input its shape alone.

    Raises:
        ModelError: the forward pass fails.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    from mest_compiler.losses.base import INPUT
    from mest_compiler.losses.outputs import arguments_of, outputs_of
    from mest_compiler.sparsity.decisions import unfit

    found = NetworkLayers()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    specs = inputs if isinstance(inputs, Mapping) else {INPUT: TensorSpec(tuple(inputs), "float32")}
    examples = {n: torch.zeros(1, *spec.shape, dtype=getattr(torch, spec.dtype)) for n, spec in specs.items()}
    args, kwargs = arguments_of(model, examples)

    def note(func: Callable, weight: torch.Tensor, groups: int) -> None:
        name = names.get(id(weight))
        if name is None or name in found.order:
            return
        found.order.append(name)
        if name in frozen or groups != 1:
            found.dense.update(unfit({name: tuple(weight.shape)}, frozen))
        elif func is torch.nn.functional.linear:
            found.linears[name] = tuple(weight.shape)
        else:
            found.convolutions[name] = tuple(weight.shape)

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
            outputs = outputs_of(model.eval()(*args, **kwargs))
    except ModelError:
        raise
    except Exception as error:  # a user's forward may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        # By name they are a data set's, and else what options say.
        options = "give the --plane and --channels it is made for"
        advice = "give it data that it is made for" if isinstance(inputs, Mapping) else options
        raise ModelError(
            f"The model cannot be run on an input of shape {' and '.join(str([*x.shape]) for x in examples.values())} "
            f"({reason}): {advice}."
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    return replace(found, outputs={n: TensorSpec(tuple(o.shape[1:]), str(o.dtype)[6:]) for n, o in outputs.items()})
