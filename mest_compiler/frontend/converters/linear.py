"""Matrix products: those of linear layers, which keep the name of their weight, and any others."""

import torch
from tvm import relax
from tvm.relax import op as R

from .. import ops
from ..emission import Emission, shape_of
from .registry import converts

aten = torch.ops.aten


@converts(aten.t.default)
def transpose(emission: Emission, x: relax.Expr) -> relax.Expr:
    return emission.transpose(x)


@converts(aten.mm.default)
def mm(emission: Emission, a: relax.Expr, b: relax.Expr) -> relax.Expr:
    product = emission.products.get(emission.node)
    if product is None:
        return emission.emit(R.matmul(a, b))
    if product.direction == "forward":
        w = emission.transpose(b)
        emission.linears[product.param] = tuple(shape_of(w))
        return emission.emit(ops.linear(a, w, param=product.param))
    if product.direction == "backward_data":
        return emission.emit(ops.linear_backward_data(a, b, param=product.param))
    if product.transposed:
        return emission.transpose(
            emission.emit(ops.linear_backward_weight(b, emission.transpose(a), param=product.param))
        )
    return emission.emit(ops.linear_backward_weight(emission.transpose(a), b, param=product.param))


@converts(aten.addmm.default)
def addmm(emission: Emission, c: relax.Expr, a: relax.Expr, b: relax.Expr) -> relax.Expr:
    return emission.emit(R.add(mm(emission, a, b), c))
