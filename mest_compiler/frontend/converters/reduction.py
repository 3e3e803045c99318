"""Sums and means over axes; a mean over whole planes is global average pooling."""

import torch
from tvm import relax
from tvm.relax import op as R

from .. import ops
from ..emission import Emission, shape_of
from .registry import converts

aten = torch.ops.aten


@converts(aten.mean.dim)
def mean(emission: Emission, x: relax.Expr, dims: list[int] | None, keepdim: bool = False) -> relax.Expr:
    axes = _axes(x, dims)
    if len(shape_of(x)) == 4 and axes == [2, 3]:
        return emission.reshape(emission.emit(ops.global_avg_pool(x)), emission.result_shape())
    return emission.emit(R.mean(x, axes, keepdim))


@converts(aten.sum.dim_IntList)
def sum_over(emission: Emission, x: relax.Expr, dims: list[int] | None, keepdim: bool = False) -> relax.Expr:
    return emission.emit(R.sum(x, _axes(x, dims), keepdim))


@converts(aten.sum.default)
def sum_of_all(emission: Emission, x: relax.Expr) -> relax.Expr:
    return emission.emit(R.sum(x))


@converts(aten.mean.default)
def mean_of_all(emission: Emission, x: relax.Expr) -> relax.Expr:
    return emission.emit(R.mean(x))


def _axes(x: relax.Expr, dims: list[int] | None) -> list[int]:
    """Axes counted from the front, in order; none given means all."""
    rank = len(shape_of(x))
    return sorted(d % rank for d in dims) if dims else list(range(rank))
