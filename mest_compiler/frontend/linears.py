"""Which matrix products of a captured graph are a linear layer's, by the name of its weight.

PyTorch writes a linear layer as products with a transposed weight and forgets which layer they belong to. A layer is
found only if all three products have the usual form; any other use of a weight stays a plain matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..signature import Role
from .capture import CapturedGraph

aten = torch.ops.aten

_COPIES = (aten.detach.default, aten.clone.default, aten.alias.default)
_PRODUCTS = (aten.mm.default, aten.addmm.default)


@dataclass(frozen=True)
class Product:
    """What a matrix product computes of the layer with weight `param`: "forward", "backward_data" or
    "backward_weight" (`transposed`: its transpose).
    """

    param: str
    direction: str
    transposed: bool = False


def find_linears(captured: CapturedGraph) -> dict[torch.fx.Node, Product]:
    """The products of all linear layers whose weights are parameters [F, C] that nothing else reads."""
    found: dict[torch.fx.Node, Product] = {}
    gradients = _gradients(captured)
    for name, parameter in {**captured.parameters, **captured.frozen}.items():
        if parameter.meta["val"].dim() == 2:
            found |= _layer(name, parameter, gradients.get(name))
    return found


def _gradients(captured: CapturedGraph) -> dict[str, torch.fx.Node]:
    """The node of every parameter's gradient; none in a prediction."""
    if not captured.tangents:
        return {}
    return {name: node for (role, name), node in captured.results.items() if role is Role.GRADIENT}


def _layer(name: str, parameter: torch.fx.Node, gradient: torch.fx.Node | None) -> dict[torch.fx.Node, Product]:
    """The products of one layer, none if its weight is used in any other way."""
    forward, data = [], []
    for reader, operand, transposed in _readers(parameter):
        if reader.target not in _PRODUCTS or reader.kwargs or reader.args[-1] is not operand:
            return {}
        if reader.target is aten.mm.default and reader.args[0] is operand:
            return {}
        (forward if transposed else data).append(reader)
    if len(forward) != 1 or len(data) > 1 or any(node.target is not aten.mm.default for node in data):
        return {}
    found = {forward[0]: Product(name, "forward")} | {node: Product(name, "backward_data") for node in data}
    if gradient is None:  # a prediction
        return found if not data else {}
    product, transposed = _source(gradient)
    if product.target is not aten.mm.default:
        return {}
    x, _ = _source(forward[0].args[-2])
    left, right = (_source(operand) for operand in product.args[:2])
    # gw = t(gy) x, or its transpose t(x) gy; gy is what the gradient of x is computed from, if that is wanted.
    reads_x, reads_gy = (left, right) if transposed else (right, left)
    if reads_x != (x, transposed) or reads_gy[1] is transposed:
        return {}
    if any(_source(node.args[0]) != (reads_gy[0], False) for node in data):
        return {}
    return found | {product: Product(name, "backward_weight", transposed)}


def _readers(node: torch.fx.Node, transposed: bool = False) -> list[tuple[torch.fx.Node, torch.fx.Node, bool]]:
    """(who reads a matrix, which of its copies or transposes, whether that one is transposed)."""
    found = []
    for user in node.users:
        if user.target is aten.t.default:
            found += _readers(user, not transposed)
        elif user.target in _COPIES:
            found += _readers(user, transposed)
        else:
            found.append((user, node, transposed))
    return found


def _source(node: torch.fx.Node) -> tuple[torch.fx.Node, bool]:
    """What a matrix is a copy or transpose of, and whether it is transposed."""
    transposed = False
    while node.target is aten.t.default or node.target in _COPIES:
        transposed ^= node.target is aten.t.default
        node = node.args[0]
    return node, transposed
