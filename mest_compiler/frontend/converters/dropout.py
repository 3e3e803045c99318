"""Dropout: the mask is a hash of the step's seed, computed again in the backward pass."""

import torch
from tvm import relax

from .. import ops
from ..emission import DropoutMask, Emission
from .registry import converts

aten = torch.ops.aten


@converts(aten.native_dropout.default)
def dropout(emission: Emission, x: relax.Expr, p: float, train: bool | None) -> tuple[relax.Expr, DropoutMask]:
    if emission.seed is None:
        emission.refuse("drops elements in evaluation too; use nn.Dropout, or pass training=self.training")
    if not 0 <= p < 1:
        emission.refuse(f"drops everything (p={p}); use a probability below 1")
    mask = DropoutMask(float(p), emission.next_dropout())
    return emission.emit(ops.dropout(x, emission.seed, p=mask.p, layer=mask.layer)), mask


@converts(aten.native_dropout_backward.default)
def dropout_backward(emission: Emission, gy: relax.Expr, mask: DropoutMask, scale: float) -> relax.Expr:
    return emission.emit(ops.dropout(gy, emission.seed, p=mask.p, layer=mask.layer))
