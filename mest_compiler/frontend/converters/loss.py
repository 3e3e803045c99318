"""Losses: log-softmax, the mean or sum of negative log-likelihoods, binary cross-entropies, and their gradients.

Examples labelled `ignore_index` count neither in the sum nor in the number it is divided by.
"""

import torch
from tvm import relax, te, tirx
from tvm.relax import op as R

from ..emission import Emission
from .registry import converts

aten = torch.ops.aten

NONE, MEAN, SUM = 0, 1, 2  # torch's numbers for reduction="none", "mean" and "sum"


@converts(aten._log_softmax.default)
def log_softmax(emission: Emission, x: relax.Expr, dim: int, half_to_float: bool) -> relax.Expr:
    return emission.emit(R.nn.log_softmax(x, dim))


@converts(aten._log_softmax_backward_data.default)
def log_softmax_backward(emission: Emission, gy: relax.Expr, y: relax.Expr, dim: int, dtype: torch.dtype) -> relax.Expr:
    total = emission.emit(R.sum(gy, [dim], keepdims=True))
    return emission.emit(R.subtract(gy, R.multiply(R.exp(y), total)))


@converts(aten.nll_loss_forward.default)
def nll_loss(
    emission: Emission,
    log_p: relax.Expr,
    y: relax.Expr,
    weight: relax.Expr | None,
    reduction: int,
    ignore_index: int,
) -> tuple[relax.Expr, relax.Expr]:
    """Returns (loss [], number of examples that count [])."""
    _check(emission, weight, reduction)

    def define(log_p: te.Tensor, y: te.Tensor) -> list[te.Tensor]:
        batch, classes = log_p.shape
        zero, one = tirx.const(0, log_p.dtype), tirx.const(1, log_p.dtype)
        c = te.reduce_axis((0, classes), "c")
        # A sum over all classes instead of log_p[n, y[n]]: a wrong label must not read out of bounds.
        chosen = te.compute(
            (batch,),
            lambda n: te.sum(tirx.Select(_is_label(y, n, c, ignore_index), -log_p[n, c], zero), axis=c),
            "chosen",
        )
        n = te.reduce_axis((0, batch), "n")
        counted = tirx.Select(y[n] != tirx.const(ignore_index, y.dtype), one, zero)
        count = te.compute((), lambda: te.sum(counted, axis=n), "count")
        m = te.reduce_axis((0, batch), "m")
        total = te.compute((), lambda: te.sum(chosen[m], axis=m), "total")
        return [te.compute((), lambda: total() / count(), "loss") if reduction == MEAN else total, count]

    both = emission.emit_te(define, log_p, y)
    return emission.emit(relax.TupleGetItem(both, 0)), emission.emit(relax.TupleGetItem(both, 1))


@converts(aten.nll_loss_backward.default)
def nll_loss_backward(
    emission: Emission,
    gy: relax.Expr,
    log_p: relax.Expr,
    y: relax.Expr,
    weight: relax.Expr | None,
    reduction: int,
    ignore_index: int,
    count: relax.Expr,
) -> relax.Expr:
    _check(emission, weight, reduction)

    def define(gy: te.Tensor, log_p: te.Tensor, y: te.Tensor, *counts: te.Tensor) -> te.Tensor:
        def chosen() -> tirx.Expr:
            return -gy() / counts[0]() if counts else -gy()

        return te.compute(
            log_p.shape,
            lambda n, c: tirx.Select(_is_label(y, n, c, ignore_index), chosen(), tirx.const(0, log_p.dtype)),
            "nll_loss_backward",
        )

    return emission.emit_te(define, gy, log_p, y, *([count] if reduction == MEAN else []))


@converts(aten.binary_cross_entropy_with_logits.default)
def bce_with_logits(
    emission: Emission,
    x: relax.Expr,
    target: relax.Expr,
    weight: relax.Expr | None = None,
    pos_weight: relax.Expr | None = None,
    reduction: int = MEAN,
) -> relax.Expr:
    """max(x, 0) - x * target + log(1 + exp(-|x|)), which overflows nowhere."""
    if weight is not None or pos_weight is not None:
        emission.refuse("has weights, which are not covered")
    zero, one = emission.scalar(0.0, x), emission.scalar(1.0, x)
    tail = emission.emit(R.log(R.add(one, R.exp(R.negative(R.abs(x))))))
    loss = emission.emit(R.add(R.subtract(R.maximum(x, zero), R.multiply(x, target)), tail))
    if reduction == NONE:
        return loss
    return emission.emit((R.mean if reduction == MEAN else R.sum)(loss))


@converts(aten.sigmoid.default)
def sigmoid(emission: Emission, x: relax.Expr) -> relax.Expr:
    return emission.emit(R.sigmoid(x))


@converts(aten.sigmoid_backward.default)
def sigmoid_backward(emission: Emission, gy: relax.Expr, y: relax.Expr) -> relax.Expr:
    return emission.emit(R.multiply(gy, R.multiply(y, R.subtract(emission.scalar(1.0, y), y))))


def _is_label(y: te.Tensor, n: tirx.Expr, c: tirx.Expr, ignore_index: int) -> tirx.Expr:
    return tirx.all(y[n] == tirx.Cast("int64", c), y[n] != tirx.const(ignore_index, "int64"))


def _check(emission: Emission, weight: relax.Expr | None, reduction: int) -> None:
    if weight is not None or reduction == NONE:
        emission.refuse("has class weights, or is neither a mean nor a sum, which is not covered")
