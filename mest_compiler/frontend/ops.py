"""The mest.* Relax operators: what a training step needs and Relax lacks, or has only in pieces.

Convolutions carry the name of their parameter, so that a pass finds the three convolutions of a layer without
guessing; batch norm, pooling and their gradients stay whole, so that
each becomes few kernels. Activations are NCHW. Every operator has a plain definition in `ops_reference`,
which says what it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tvm
from tvm import relax, s_tir, te
from tvm.ir import _ffi_api as ir_ffi

from . import ops_reference as reference

Ints = Sequence[int]


@dataclass(frozen=True)
class OpDefinition:
    """An operator: the names of its arguments, the type of its result, its plain definition, attributes that do not
    change what it computes, and for a matrix product the order of its loops, by which the innermost runs over memory in
    order and LLVM makes vectors of it.
    """

    arguments: tuple[str, ...]
    infer: Callable[[relax.Call], tvm.ir.Type]
    compute: Callable
    labels: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()


def attributes(call: relax.Call) -> dict[str, int | float | str | tuple]:
    """The attributes of a mest.* call as Python values; lists become tuples."""
    return {str(key): _python(value) for key, value in call.attrs.items()}


def _python(value: object) -> int | float | str | tuple:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, tvm.tirx.IntImm):
        return int(value.value)
    if isinstance(value, tvm.tirx.FloatImm):
        return float(value.value)
    return tuple(_python(item) for item in value)


def _like(argument: int) -> Callable[[relax.Call], tvm.ir.Type]:
    return lambda call: call.args[argument].ty


def _of_shape_attribute(call: relax.Call) -> tvm.ir.Type:
    return relax.TensorType(attributes(call)["oshape"], call.args[0].ty.dtype)


def _per_channel(call: relax.Call) -> tvm.ir.Type:
    x = call.args[0].ty
    return relax.TensorType([x.shape[1]], x.dtype)


def _per_plane(call: relax.Call) -> tvm.ir.Type:
    x = call.args[0].ty
    return relax.TensorType([x.shape[0], x.shape[1]], x.dtype)


def _batch_norm_type(call: relax.Call) -> tvm.ir.Type:
    return relax.TupleType([call.args[0].ty, *[_per_channel(call)] * 4])


def _batch_norm_backward_type(call: relax.Call) -> tvm.ir.Type:
    return relax.TupleType([call.args[1].ty, *[_per_channel(call)] * 2])


def _matrix(a: int, axis_a: int, b: int, axis_b: int) -> Callable[[relax.Call], tvm.ir.Type]:
    """Type of a matrix whose extents are those of an axis of two arguments."""

    def infer(call: relax.Call) -> tvm.ir.Type:
        first, second = call.args[a].ty, call.args[b].ty
        return relax.TensorType([first.shape[axis_a], second.shape[axis_b]], first.dtype)

    return infer


def _max_pool_type(call: relax.Call) -> tvm.ir.Type:
    return relax.TupleType([_of_shape_attribute(call), relax.TensorType(attributes(call)["oshape"], "int32")])


OPS: dict[str, OpDefinition] = {
    "mest.conv2d": OpDefinition(("x", "w"), _of_shape_attribute, reference.conv2d, ("param",)),
    "mest.conv2d_backward_data": OpDefinition(
        ("gy", "w"), _of_shape_attribute, reference.conv2d_backward_data, ("param",)
    ),
    "mest.conv2d_backward_weight": OpDefinition(
        ("gy", "x"), _of_shape_attribute, reference.conv2d_backward_weight, ("param",)
    ),
    "mest.bias_add": OpDefinition(("x", "b"), _like(0), reference.bias_add),
    "mest.bias_grad": OpDefinition(("gy",), _per_channel, reference.bias_grad),
    "mest.batch_norm": OpDefinition(
        ("x", "w", "b", "running_mean", "running_var"), _batch_norm_type, reference.batch_norm
    ),
    "mest.batch_norm_backward": OpDefinition(
        ("gy", "x", "w", "mean", "rstd"), _batch_norm_backward_type, reference.batch_norm_backward
    ),
    "mest.batch_norm_inference": OpDefinition(
        ("x", "w", "b", "running_mean", "running_var"), _like(0), reference.batch_norm_inference
    ),
    "mest.relu_backward": OpDefinition(("gy", "y"), _like(0), reference.relu_backward),
    "mest.clip": OpDefinition(("x",), _like(0), reference.clip),
    "mest.clip_backward": OpDefinition(("gy", "y"), _like(0), reference.clip_backward),
    "mest.clamp_backward": OpDefinition(("gy", "x"), _like(0), reference.clamp_backward),
    "mest.dropout": OpDefinition(("x", "seed"), _like(0), reference.dropout),
    "mest.max_pool2d": OpDefinition(("x",), _max_pool_type, reference.max_pool2d),
    "mest.max_pool2d_backward": OpDefinition(("gy", "index"), _of_shape_attribute, reference.max_pool2d_backward),
    "mest.avg_pool2d": OpDefinition(("x",), _of_shape_attribute, reference.avg_pool2d),
    "mest.avg_pool2d_backward": OpDefinition(("gy",), _of_shape_attribute, reference.avg_pool2d_backward),
    "mest.global_avg_pool": OpDefinition(("x",), _per_plane, reference.global_avg_pool),
    "mest.spatial_broadcast": OpDefinition(("g",), _of_shape_attribute, reference.spatial_broadcast),
    "mest.linear": OpDefinition(("x", "w"), _matrix(0, 0, 1, 0), reference.linear, ("param",), ("n", "c", "f")),
    "mest.linear_backward_data": OpDefinition(
        ("gy", "w"), _matrix(0, 0, 1, 1), reference.linear_backward_data, ("param",), ("n", "f", "c")
    ),
    "mest.linear_backward_weight": OpDefinition(
        ("gy", "x"), _matrix(0, 1, 1, 1), reference.linear_backward_weight, ("param",), ("f", "n", "c")
    ),
}


def _register(name: str, definition: OpDefinition) -> None:
    if name in set(ir_ffi.ListOpNames()):  # the module may be imported again in one process
        return
    ir_ffi.RegisterOp(name, definition.compute.__doc__ or "")
    op = tvm.ir.Op.get(name)
    op.set_num_inputs(len(definition.arguments))
    for argument in definition.arguments:
        op.add_argument(argument, "Tensor", "")
    op.set_attrs_type_key("ir.DictAttrs")
    op.set_attr("FInferType", lambda call, _context: definition.infer(call))
    op.set_attr("FPurity", True)


for _op_name, _definition in OPS.items():
    _register(_op_name, _definition)


def plain_legalizations(ordered: bool = True) -> dict[str, Callable[[relax.BlockBuilder, relax.Call], relax.Expr]]:
    """Operator name -> legalisation into its plain NCHW definition, for `relax.transform.LegalizeOps`.

    `ordered`: matrix products get the order of their loops; False: they are left to somebody's schedule.
    """
    return {name: _plain_legalization(name, definition, ordered) for name, definition in OPS.items()}


def _plain_legalization(name: str, definition: OpDefinition, ordered: bool) -> Callable:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        attrs = {k: v for k, v in attributes(call).items() if k not in definition.labels}
        hint = name.removeprefix("mest.")
        if definition.loops and ordered:
            return _in_order(builder, call, definition, hint)
        return builder.call_te(definition.compute, *call.args, **attrs, primfunc_name_hint=hint)

    return legalize


def _in_order(builder: relax.BlockBuilder, call: relax.Call, definition: OpDefinition, name: str) -> relax.Expr:
    """A call of a matrix product with its loops in the definition's order."""
    types = [(a.ty.shape, str(a.ty.dtype)) for a in call.args]
    tensors = [te.placeholder([int(n) for n in shape], dtype, f"a{i}") for i, (shape, dtype) in enumerate(types)]
    tensors.append(definition.compute(*tensors))
    schedule = s_tir.Schedule(te.create_prim_func(tensors, index_dtype_override="int64"))
    product = schedule.get_sblock("product")
    loops = {str(schedule.get(loop).loop_var.name): loop for loop in schedule.get_loops(product)}
    schedule.reorder(*[loops[axis] for axis in definition.loops])
    schedule.decompose_reduction(product, loops[definition.loops[1]])
    function = schedule.mod["main"].without_attr("global_symbol")
    return relax.call_tir(builder.add_func(function, name), list(call.args), call.ty)


def _call(name: str, args: Sequence[relax.Expr], **attrs: object) -> relax.Call:
    return relax.Call(tvm.ir.Op.get(name), list(args), tvm.ir.make_node("ir.DictAttrs", **attrs))


def conv2d(
    x: relax.Expr,
    w: relax.Expr,
    *,
    oshape: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    param: str,
) -> relax.Call:
    """y [N, F, OH, OW] (= oshape) of x [N, C, H, W] and w [F, C / groups, kh, kw], the parameter named
    `param` in torch.
    """
    return _call("mest.conv2d", [x, w], **_conv_attributes(oshape, stride, padding, dilation, groups, param))


def conv2d_backward_data(
    gy: relax.Expr,
    w: relax.Expr,
    *,
    oshape: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    param: str,
) -> relax.Call:
    """The gradient of x (of shape oshape = [N, C, H, W]) from gy [N, F, OH, OW] and w; the other attributes
    are the forward convolution's.
    """
    attrs = _conv_attributes(oshape, stride, padding, dilation, groups, param)
    return _call("mest.conv2d_backward_data", [gy, w], **attrs)


def conv2d_backward_weight(
    gy: relax.Expr,
    x: relax.Expr,
    *,
    oshape: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    param: str,
) -> relax.Call:
    """The gradient of w (of shape oshape = [F, C / groups, kh, kw]) from gy [N, F, OH, OW] and x; the other
    attributes are the forward convolution's.
    """
    attrs = _conv_attributes(oshape, stride, padding, dilation, groups, param)
    return _call("mest.conv2d_backward_weight", [gy, x], **attrs)


def _conv_attributes(
    oshape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int, param: str
) -> dict[str, object]:
    return {
        "oshape": list(oshape),
        "stride": list(stride),
        "padding": list(padding),
        "dilation": list(dilation),
        "groups": groups,
        "param": param,
    }


def bias_add(x: relax.Expr, b: relax.Expr) -> relax.Call:
    """x [N, C, H, W] plus b [C] on every channel."""
    return _call("mest.bias_add", [x, b])


def bias_grad(gy: relax.Expr) -> relax.Call:
    """The gradient [C] of a bias from gy [N, C, H, W]."""
    return _call("mest.bias_grad", [gy])


def batch_norm(
    x: relax.Expr,
    w: relax.Expr,
    b: relax.Expr,
    running_mean: relax.Expr,
    running_var: relax.Expr,
    *,
    momentum: float,
    eps: float,
) -> relax.Call:
    """Batch norm in training: (y, mean [C], rstd [C], new running mean [C], new running variance [C])."""
    return _call("mest.batch_norm", [x, w, b, running_mean, running_var], momentum=momentum, eps=eps)


def batch_norm_backward(gy: relax.Expr, x: relax.Expr, w: relax.Expr, mean: relax.Expr, rstd: relax.Expr) -> relax.Call:
    """Gradients (gx, gw [C], gb [C]) of a batch norm in training; mean and rstd are what the forward pass
    returned.
    """
    return _call("mest.batch_norm_backward", [gy, x, w, mean, rstd])


def batch_norm_inference(
    x: relax.Expr,
    w: relax.Expr,
    b: relax.Expr,
    running_mean: relax.Expr,
    running_var: relax.Expr,
    *,
    eps: float,
) -> relax.Call:
    """Batch norm with its running statistics: y [N, C, H, W]."""
    return _call("mest.batch_norm_inference", [x, w, b, running_mean, running_var], eps=eps)


def relu_backward(gy: relax.Expr, y: relax.Expr) -> relax.Call:
    """gy where the ReLU's output y is positive, else 0; any shape."""
    return _call("mest.relu_backward", [gy, y])


def clip(x: relax.Expr, *, low: float, high: float) -> relax.Call:
    """x, at least low and at most high; any shape."""
    return _call("mest.clip", [x], low=float(low), high=float(high))


def clip_backward(gy: relax.Expr, y: relax.Expr, *, low: float, high: float) -> relax.Call:
    """gy where the clipped output y lies between the bounds, 0 on both of them: the gradient of hardtanh."""
    return _call("mest.clip_backward", [gy, y], low=float(low), high=float(high))


def clamp_backward(gy: relax.Expr, x: relax.Expr, *, low: float, high: float) -> relax.Call:
    """gy where the input x lies between the bounds or on one of them, else 0: the gradient of clamp."""
    return _call("mest.clamp_backward", [gy, x], low=float(low), high=float(high))


def dropout(x: relax.Expr, seed: relax.Expr, *, p: float, layer: int) -> relax.Call:
    """x / (1 - p) where `dropout_mask.keep` of (seed uint32 [], layer, element's number) says so, else 0.

    It is its own gradient: the mask is computed again and never stored.
    """
    return _call("mest.dropout", [x, seed], p=float(p), layer=layer)


def max_pool2d(x: relax.Expr, *, oshape: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> relax.Call:
    """(y, index int32), both of shape oshape; index is i * kw + j of the first maximum in its window."""
    return _call("mest.max_pool2d", [x], **_window_attributes(oshape, kernel, stride, padding, dilation))


def max_pool2d_backward(
    gy: relax.Expr,
    index: relax.Expr,
    *,
    oshape: Ints,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
) -> relax.Call:
    """The gradient of x (of shape oshape = [N, C, H, W]); the other attributes are the forward pooling's."""
    attrs = _window_attributes(oshape, kernel, stride, padding, dilation)
    return _call("mest.max_pool2d_backward", [gy, index], **attrs)


def _window_attributes(oshape: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> dict[str, object]:
    return {
        "oshape": list(oshape),
        "kernel": list(kernel),
        "stride": list(stride),
        "padding": list(padding),
        "dilation": list(dilation),
    }


def avg_pool2d(x: relax.Expr, *, oshape: Ints, kernel: Ints, stride: Ints, padding: Ints, divisor: int) -> relax.Call:
    """The sum over every window by `divisor`; 0: by the number of the image's pixels in it."""
    attrs = {"oshape": list(oshape), "kernel": list(kernel), "stride": list(stride), "padding": list(padding)}
    return _call("mest.avg_pool2d", [x], **attrs, divisor=divisor)


def avg_pool2d_backward(
    gy: relax.Expr, *, oshape: Ints, kernel: Ints, stride: Ints, padding: Ints, divisor: int
) -> relax.Call:
    """The gradient of x (of shape oshape = [N, C, H, W]); the other attributes are the forward pooling's."""
    attrs = {"oshape": list(oshape), "kernel": list(kernel), "stride": list(stride), "padding": list(padding)}
    return _call("mest.avg_pool2d_backward", [gy], **attrs, divisor=divisor)


def global_avg_pool(x: relax.Expr) -> relax.Call:
    """The mean [N, C] over each plane of x [N, C, H, W]."""
    return _call("mest.global_avg_pool", [x])


def spatial_broadcast(g: relax.Expr, *, oshape: Ints) -> relax.Call:
    """g [N, C] repeated over each plane of oshape = [N, C, H, W]."""
    return _call("mest.spatial_broadcast", [g], oshape=list(oshape))


def linear(x: relax.Expr, w: relax.Expr, *, param: str) -> relax.Call:
    """y [N, F] of x [N, C] and w [F, C], the parameter named `param` in torch; the bias is added apart."""
    return _call("mest.linear", [x, w], param=param)


def linear_backward_data(gy: relax.Expr, w: relax.Expr, *, param: str) -> relax.Call:
    """The gradient [N, C] of x from gy [N, F] and w [F, C]."""
    return _call("mest.linear_backward_data", [gy, w], param=param)


def linear_backward_weight(gy: relax.Expr, x: relax.Expr, *, param: str) -> relax.Call:
    """The gradient [F, C] of w from gy [N, F] and x [N, C]."""
    return _call("mest.linear_backward_weight", [gy, x], param=param)
