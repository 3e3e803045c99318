"""Relax operators that exist between passes: sparse convolutions and whole normalisations, still without a layout."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax
from tvm.ir import _ffi_api as ir_ffi

from mest_compiler.frontend.ops import attributes


def _of_shape(call: relax.Call) -> tvm.ir.Type:
    return relax.TensorType(attributes(call)["oshape"], call.args[0].ty.dtype)


def _vector(call: relax.Call) -> relax.TensorType:
    x = call.args[0].ty
    return relax.TensorType([x.shape[1]], x.dtype)


OPS = {
    # (x, values [capacity, unit_size]), (gy, values), (gy, x): attributes of mest.conv2d.
    # With `recompute` they read a batch norm's output and compute it from its input: (gy, x, w, b, mean, rstd) -> gw,
    # and (x, weight, w, b, mean, rstd) -> y, by sparse and dense ones.
    # With `sums` batch norm's are taken where the result is written, by sparse and dense ones; backward-data is then
    # (gy, w, and the first arguments of mest.normalise_backward) -> g, what that would mask as its own attributes say.
    "mest.sparse_conv2d": _of_shape,
    "mest.sparse_conv2d_backward_data": _of_shape,
    "mest.sparse_conv2d_backward_weight": _of_shape,
    # likewise on x [N, C] and gy [N, F]
    "mest.sparse_linear": _of_shape,
    "mest.sparse_linear_backward_data": _of_shape,
    "mest.sparse_linear_backward_weight": _of_shape,
    # (x, w, b, running_mean, running_var[, residual]) -> (z, mean, rstd, new running_mean, new running_var);
    # `sums`: those of x were taken where it was written
    "mest.normalise": lambda call: relax.TupleType([call.args[0].ty, *[_vector(call)] * 4]),
    # (x, running_mean, running_var) -> (mean, rstd, new running_mean, new running_var); `sums`: likewise
    "mest.batch_statistics": lambda call: relax.TupleType([_vector(call)] * 4),
    # (x, w, b, running_mean, running_var[, residual]) -> z
    "mest.normalise_inference": lambda call: call.args[0].ty,
    # (x, w, b, mean, rstd[, z], gradient[, gradient]) -> (gx, gw, gb, g); `sums`: as above, of the gradient
    "mest.normalise_backward": lambda call: relax.TupleType([call.args[0].ty, *[_vector(call)] * 2, call.args[0].ty]),
}

for _name, _infer in OPS.items():
    if _name not in set(ir_ffi.ListOpNames()):
        ir_ffi.RegisterOp(_name, "")
        _op = tvm.ir.Op.get(_name)
        _op.set_num_inputs(-1)
        _op.set_attrs_type_key("ir.DictAttrs")
        _op.set_attr("FInferType", lambda call, _context, infer=_infer: infer(call))
        _op.set_attr("FPurity", True)


def call(name: str, args: Sequence[relax.Expr], old: relax.Call, **attrs: object) -> relax.Call:
    """A call of one of `OPS` (or of a frontend operator) with attributes, for the old one: from the same module."""
    return relax.Call(tvm.ir.Op.get(name), list(args), tvm.ir.make_node("ir.DictAttrs", **attrs), span=old.span)


def changed(old: relax.Call, args: Sequence[relax.Expr], **attrs: object) -> relax.Call:
    """A call with other arguments, and some attributes new."""
    kept = {key: list(value) if isinstance(value, tuple) else value for key, value in attributes(old).items()}
    return call(str(old.op.name), args, old, **{**kept, **attrs})
