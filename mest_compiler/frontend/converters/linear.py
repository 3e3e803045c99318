"""Matrix products of linear layers and their gradients."""

import torch
from tvm import relax
from tvm.relax import op as R

from ..emission import Emission
from .registry import converts

aten = torch.ops.aten


@converts(aten.t.default)
def transpose(emission: Emission, x: relax.Expr) -> relax.Expr:
    return emission.transpose(x)


@converts(aten.mm.default)
def mm(emission: Emission, a: relax.Expr, b: relax.Expr) -> relax.Expr:
    return emission.emit(R.matmul(a, b))


@converts(aten.addmm.default)
def addmm(emission: Emission, c: relax.Expr, a: relax.Expr, b: relax.Expr) -> relax.Expr:
    return emission.emit(R.add(emission.emit(R.matmul(a, b)), c))
