"""What a converter works with: the node it converts, ways to emit Relax, and the way to refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import torch
from tvm import relax
from tvm.relax import op as R

from ..errors import ModelError
from .capture import module_name, module_of
from .linears import Product
from .origin import marked, span_of
from .training_graph import Convolution


@dataclass(frozen=True)
class WindowIndex:
    """Positions of maxima, int32, counted inside their pooling windows; PyTorch's count int64 over the plane,
    so nothing but the pooling's backward may read them.
    """

    positions: relax.Var


@dataclass(frozen=True)
class DropoutMask:
    """What a dropout of probability `p` keeps; `layer` counts the dropouts of a graph. Never a tensor: the backward
    pass computes it again.
    """

    p: float
    layer: int


@dataclass(frozen=True)
class Between:
    """The condition low <= x <= high of a clamp, which only the clamp's gradient may read."""

    x: relax.Expr
    low: float
    high: float


Value = relax.Expr | WindowIndex | DropoutMask | Between | tuple | None


class Emission:
    """Emits one Relax function; `node` is the ATen node being converted.

    `products` says which matrix products are a linear layer's; `seed` is the run-time seed of the dropouts, None where
    there must not be any.
    """

    node: torch.fx.Node

    def __init__(
        self,
        builder: relax.BlockBuilder,
        parameters: dict[str, tuple[torch.fx.Node, relax.Var]],
        products: dict[torch.fx.Node, Product],
        seed: relax.Var | None,
    ) -> None:
        self.builder = builder
        self.parameters = parameters
        self.products = products
        self.seed = seed
        self.convolutions: dict[str, Convolution] = {}
        self.linears: dict[str, tuple[int, int]] = {}
        self.clipped: dict[tuple[relax.Var, float, float], relax.Var] = {}
        self._dropouts = 0
        self._parameter_names = {var: name for name, (_, var) in parameters.items()}
        # What a reshaped or transposed variable was made from: chains of views collapse to one step, or to
        # none.
        self._reshaped: dict[relax.Var, relax.Expr] = {}
        self._transposed: dict[relax.Var, relax.Expr] = {}

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Emit an expression, whose calls know the node's module from then on."""
        return self.builder.emit(self._marked(expr), self.node.name)

    def _marked(self, expr: relax.Expr) -> relax.Expr:
        """Calls among the arguments are emitted first, since the builder drops the span of a call it takes apart."""
        if not isinstance(expr, relax.Call):
            return expr
        args = [self.builder.emit(self._marked(arg)) if isinstance(arg, relax.Call) else arg for arg in expr.args]
        return marked(expr, args, span_of(module_name(self.node)))

    def emit_tuple(self, expr: relax.Expr, count: int) -> tuple[relax.Var, ...]:
        """Emit a call that returns a tuple and each of its `count` parts."""
        whole = self.emit(expr)
        return tuple(self.emit(relax.TupleGetItem(whole, i)) for i in range(count))

    def emit_te(self, function: Callable, *args: relax.Expr) -> relax.Var:
        return self.emit(self.builder.call_te(function, *args, primfunc_name_hint=self.node.target._opname))

    def scalar(self, value: float, like: relax.Expr) -> relax.Constant:
        return relax.const(value, dtype_of(like))

    def result_shape(self) -> list[int]:
        """Shape of the node's (first) value, as PyTorch knows it."""
        value = self.node.meta["val"]
        return [int(n) for n in (value if isinstance(value, torch.Tensor) else value[0]).shape]

    def tensor(self, value: Value) -> relax.Expr:
        """`value`, refused unless it is one tensor."""
        if isinstance(value, WindowIndex):
            self.refuse("reads the indices of a max-pooling, which only the pooling's own gradient may use")
        if isinstance(value, DropoutMask):
            self.refuse("reads the mask of a dropout, which only the dropout's own gradient may use")
        if isinstance(value, Between):
            self.refuse("reads a comparison, which only the gradient of a clamp may use")
        if not isinstance(value, relax.Expr):
            self.refuse("reads a value that its producer does not hand out in Relax")
        return value

    def next_dropout(self) -> int:
        """Number of one more dropout."""
        self._dropouts += 1
        return self._dropouts - 1

    def reshape(self, x: relax.Expr, shape: list[int]) -> relax.Expr:
        x = self._reshaped.get(x, x) if isinstance(x, relax.Var) else x
        if shape_of(x) == shape:
            return x
        out = self.emit(R.reshape(x, shape))
        self._reshaped[out] = x
        return out

    def transpose(self, x: relax.Expr) -> relax.Expr:
        """The transpose of a matrix."""
        if isinstance(x, relax.Var) and x in self._transposed:
            return self._transposed[x]
        out = self.emit(R.permute_dims(x))
        self._transposed[out] = x
        return out

    def parameter_name(self, x: relax.Expr) -> str | None:
        """Torch name of the parameter that `x` is, None if it is something else."""
        return self._parameter_names.get(x) if isinstance(x, relax.Var) else None

    def refuse(self, why: str) -> NoReturn:
        """Raise ModelError: the node's operator and module, then `why`."""
        raise ModelError(f"{self.node.target} in {module_of(self.node)} {why}")


def shape_of(x: relax.Expr) -> list[int]:
    return [int(n) for n in x.ty.shape]


def dtype_of(x: relax.Expr) -> str:
    return str(x.ty.dtype)


def elements(shape: list[int]) -> int:
    return math.prod(shape)


def pair(values: int | list[int]) -> tuple[int, int]:
    """PyTorch's int[2] argument: one number stands for both directions."""
    values = [values] if isinstance(values, int) else list(values)
    return (int(values[0]), int(values[-1]))
