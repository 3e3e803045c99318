"""Batch norm of images, in training and with running statistics, and its gradient."""

import torch
from tvm import relax

from .. import ops
from ..emission import Emission, shape_of
from .registry import converts

aten = torch.ops.aten


@converts(aten._native_batch_norm_legit_functional.default)
def batch_norm(
    emission: Emission,
    x: relax.Expr,
    w: relax.Expr | None,
    b: relax.Expr | None,
    running_mean: relax.Expr,
    running_var: relax.Expr,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[relax.Expr, ...]:
    _check(emission, x, w, b)
    _check_training(emission, training)
    call = ops.batch_norm(x, w, b, running_mean, running_var, momentum=momentum, eps=eps)
    return emission.emit_tuple(call, 5)


@converts(aten.native_batch_norm_backward.default)
def batch_norm_backward(
    emission: Emission,
    gy: relax.Expr,
    x: relax.Expr,
    w: relax.Expr | None,
    running_mean: relax.Expr | None,
    running_var: relax.Expr | None,
    mean: relax.Expr,
    rstd: relax.Expr,
    training: bool,
    eps: float,
    wanted: list[bool],
) -> tuple[relax.Expr | None, ...]:
    _check(emission, x, w, w)
    _check_training(emission, training)
    parts = emission.emit_tuple(ops.batch_norm_backward(gy, x, w, mean, rstd), 3)
    return tuple(part if want else None for part, want in zip(parts, wanted, strict=True))


@converts(aten._native_batch_norm_legit_no_training.default)
def batch_norm_inference(
    emission: Emission,
    x: relax.Expr,
    w: relax.Expr | None,
    b: relax.Expr | None,
    running_mean: relax.Expr,
    running_var: relax.Expr,
    momentum: float,
    eps: float,
) -> tuple[relax.Expr | None, ...]:
    """The second and third result are empty tensors in PyTorch."""
    _check(emission, x, w, b)
    return emission.emit(ops.batch_norm_inference(x, w, b, running_mean, running_var, eps=eps)), None, None


@converts(aten._native_batch_norm_legit.no_stats)
def batch_norm_without_statistics(emission: Emission, *args: object) -> None:
    emission.refuse("has no running statistics; use track_running_stats=True")


def _check(emission: Emission, x: relax.Expr, w: relax.Expr | None, b: relax.Expr | None) -> None:
    if len(shape_of(x)) != 4:
        emission.refuse(f"normalises a tensor of shape {shape_of(x)}; only images [N, C, H, W] are covered")
    if w is None or b is None:
        emission.refuse("has no affine weight and bias; use affine=True")


def _check_training(emission: Emission, training: bool) -> None:
    if not training:
        emission.refuse("is frozen in eval mode; a training step needs batch statistics")
