"""Element-wise arithmetic, and operators that only rename a tensor."""

from collections.abc import Callable

import numpy as np
import torch
from tvm import relax
from tvm.relax import op as R

from ..emission import Emission, dtype_of, shape_of
from .registry import Converter, converts

aten = torch.ops.aten

BINARY = ((aten.add, R.add), (aten.sub, R.subtract), (aten.mul, R.multiply), (aten.div, R.divide))


def _binary(function: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Converter:
    def convert(emission: Emission, a: relax.Expr, b: relax.Expr | float, alpha: float = 1) -> relax.Expr:
        b = b if isinstance(b, relax.Expr) else emission.scalar(b, a)
        if alpha != 1:
            b = R.multiply(b, emission.scalar(alpha, b))
        return emission.emit(function(a, b))

    return convert


for _aten_op, _relax_op in BINARY:
    converts(_aten_op.Tensor, _aten_op.Scalar)(_binary(_relax_op))


@converts(aten.rsub.Scalar)
def number_less_tensor(emission: Emission, x: relax.Expr, number: float) -> relax.Expr:
    return emission.emit(R.subtract(emission.scalar(number, x), x))


UNARY = ((aten.neg, R.negative), (aten.exp, R.exp), (aten.log, R.log), (aten.sqrt, R.sqrt))


def _unary(function: Callable[[relax.Expr], relax.Expr]) -> Converter:
    return lambda emission, x: emission.emit(function(x))


for _aten_op, _relax_op in UNARY:
    converts(_aten_op.default)(_unary(_relax_op))


@converts(aten.pow.Tensor_Scalar)
def power(emission: Emission, x: relax.Expr, exponent: float) -> relax.Expr:
    if exponent in (1, 2):
        return x if exponent == 1 else emission.emit(R.multiply(x, x))
    return emission.emit(R.power(x, emission.scalar(exponent, x)))


@converts(aten.ones_like.default)
def ones_like(emission: Emission, x: relax.Expr, **layout: object) -> relax.Expr:
    return relax.const(np.ones(shape_of(x), dtype_of(x)), dtype_of(x))  # without a dtype float64 becomes float32


@converts(aten.detach.default, aten.clone.default, aten.alias.default, aten.lift_fresh_copy.default)
def same(emission: Emission, x: relax.Expr, **layout: object) -> relax.Expr:
    """In a functional graph a copy is its original."""
    return x
