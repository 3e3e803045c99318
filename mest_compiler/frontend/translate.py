"""Translate: from a captured ATen graph to one Relax function, node by node; what an operator becomes is said
in converters/.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import tvm
from tvm import relax

from ..errors import ModelError
from .capture import CapturedGraph, dtype_name
from .converters import CONVERTERS
from .emission import Between, DropoutMask, Emission, Value, WindowIndex, dtype_of, shape_of
from .linears import find_linears
from .training_graph import Convolution

# Operators whose arguments may be something else than a tensor: several results, the indices of a pooling, the mask of
# a dropout, a clamp's comparison, or (None) the statistics that a batch norm in eval mode did not compute.
READ_PARTS = (
    operator.getitem,
    torch.ops.aten.max_pool2d_with_indices_backward.default,
    torch.ops.aten.adaptive_max_pool2d_backward.default,
    torch.ops.aten.native_batch_norm_backward.default,
    torch.ops.aten.native_dropout_backward.default,
    torch.ops.aten.logical_and.default,
    torch.ops.aten.where.self,
)
DROPOUT = torch.ops.aten.native_dropout.default
SEED_NAME = "seed"


@dataclass(frozen=True)
class Layers:
    """The layers of a translated graph by the name of their weight, in the order in which they run, and whether the
    function takes a seed.
    """

    convolutions: dict[str, Convolution]
    linears: dict[str, tuple[int, int]]
    seeded: bool


def translate(builder: relax.BlockBuilder, name: str, captured: CapturedGraph) -> Layers:
    """Add the Relax function `name` to `builder`; its arguments are parameters, buffers, inputs, targets and, if a
    training step has a dropout, the seed (uint32 []); its result are the captured graph's results (a tuple if there are
    several).

    Raises
    ------
    ModelError
        naming the operator and its module, if an operator has no converter or its converter does not cover
        this use.
    """
    trained = captured.parameters | captured.frozen
    arguments_of = trained | captured.buffers | captured.inputs | captured.targets
    variables = {node: _variable(_identifier(its_name), node) for its_name, node in arguments_of.items()}
    values: dict[torch.fx.Node, Value] = dict(variables)
    arguments, seed = list(variables.values()), None
    if captured.tangents and any(node.target is DROPOUT for node in captured.module.graph.nodes):
        seed = relax.Var(SEED_NAME, relax.TensorType((), "uint32"))
        arguments.append(seed)
    parameters = {n: (node, variables[node]) for n, node in trained.items()}
    emission = Emission(builder, parameters, find_linears(captured), seed)
    for node in captured.tangents:  # the gradient of the loss with respect to itself
        values[node] = relax.const(1.0, dtype_name(node.meta["val"]))
    with builder.function(name, arguments):
        try:
            with builder.dataflow():
                for node in captured.module.graph.nodes:
                    if node.op == "call_function":
                        values[node] = _convert(emission, node, values)
                    elif node.op == "get_attr":
                        values[node] = _constant(getattr(captured.module, node.target))
                results = [_result(emission, node, values) for node in captured.results.values()]
                out = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
        except ModelError:
            builder.emit_func_output(relax.Tuple([]))  # a builder left with an open block prints a warning
            raise
        builder.emit_func_output(out)
    return Layers(emission.convolutions, emission.linears, seed is not None)


def _identifier(torch_name: str) -> str:
    """A name that C has as well, since kernels call their arguments so: Sequential's are numbers, "8.bias"."""
    name = re.sub(r"\W", "_", torch_name, flags=re.ASCII)
    return f"_{name}" if name[:1].isdigit() else name


def _variable(name: str, node: torch.fx.Node) -> relax.Var:
    value = node.meta["val"]
    return relax.Var(name, relax.TensorType([int(n) for n in value.shape], dtype_name(value)))


def _constant(tensor: torch.Tensor) -> relax.Constant:
    return relax.const(tensor.detach().cpu().numpy(), dtype_name(tensor))


def _result(emission: Emission, node: torch.fx.Node, values: dict[torch.fx.Node, Value]) -> relax.Expr:
    emission.node = node
    return emission.tensor(values[node])


def _convert(emission: Emission, node: torch.fx.Node, values: dict[torch.fx.Node, Value]) -> Value:
    emission.node = node
    converter = CONVERTERS.get(node.target)
    if converter is None:
        emission.refuse("has no converter to Relax; replace the layer or add a converter in frontend/converters")
    if node.target not in READ_PARTS:
        for argument in node.all_input_nodes:
            emission.tensor(values[argument])
    args = torch.fx.node.map_arg(list(node.args), values.__getitem__)
    kwargs = torch.fx.node.map_arg(dict(node.kwargs), values.__getitem__)
    try:
        result = converter(emission, *args, **kwargs)
    except ModelError:
        raise
    except (tvm.error.InternalError, TypeError, ValueError, IndexError) as error:
        reason = str(error).strip().splitlines()[-1]
        emission.refuse(f"cannot be translated ({reason}); its converter does not cover this use")
    _check(emission, result, node.meta.get("val"))
    return result


def _check(emission: Emission, result: Value, expected: torch.Tensor | Sequence | None) -> None:
    """Compare shape and dtype with what PyTorch says the node's value is."""
    if isinstance(result, tuple):
        for part, part_expected in zip(result, expected, strict=True):
            _check(emission, part, part_expected)
    elif not (result is None or expected is None or isinstance(result, DropoutMask | Between)):
        found_dtype = None if isinstance(result, WindowIndex) else dtype_of(result)
        found_shape = shape_of(result.positions if isinstance(result, WindowIndex) else result)
        wanted = [int(n) for n in expected.shape]
        if found_shape != wanted or found_dtype not in (None, dtype_name(expected)):
            emission.refuse(
                f"became {found_dtype} {found_shape} where PyTorch has {dtype_name(expected)} {wanted}; "
                "its converter does not cover this use"
            )
