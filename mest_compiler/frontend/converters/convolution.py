"""Convolutions and their gradients; they keep the name of their weight, by which every later pass knows the
layer.
"""

import torch
from tvm import relax

from .. import ops
from ..emission import Emission, pair, shape_of
from ..training_graph import Convolution
from .registry import converts

aten = torch.ops.aten

# A convolution's weight may be read by nothing else: a later pass replaces it by its compact values.
WEIGHT_READERS = (aten.convolution.default, aten.convolution_backward.default)


@converts(aten.convolution.default)
def convolution(
    emission: Emission,
    x: relax.Expr,
    w: relax.Expr,
    b: relax.Expr | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> relax.Expr:
    name = _weight_name(emission, w, transposed)
    if name in emission.convolutions:
        emission.refuse(f"uses parameter '{name}', which another convolution uses already; give each its own")
    layer = Convolution(
        name=name,
        shape=tuple(shape_of(w)),
        stride=pair(stride),
        padding=pair(padding),
        dilation=pair(dilation),
        groups=int(groups),
        in_plane=tuple(shape_of(x)[2:]),
        out_plane=tuple(emission.result_shape()[2:]),
    )
    emission.convolutions[name] = layer
    y = emission.emit(ops.conv2d(x, w, oshape=emission.result_shape(), **_attributes(layer)))
    return y if b is None else emission.emit(ops.bias_add(y, b))


@converts(aten.convolution_backward.default)
def convolution_backward(
    emission: Emission,
    gy: relax.Expr,
    x: relax.Expr,
    w: relax.Expr,
    bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    wanted: list[bool],
) -> tuple[relax.Expr | None, ...]:
    attrs = _attributes(emission.convolutions[_weight_name(emission, w, transposed)])
    gx = gw = gb = None
    if wanted[0]:
        gx = emission.emit(ops.conv2d_backward_data(gy, w, oshape=shape_of(x), **attrs))
    if wanted[1]:
        gw = emission.emit(ops.conv2d_backward_weight(gy, x, oshape=shape_of(w), **attrs))
    if wanted[2]:
        gb = emission.emit(ops.bias_grad(gy))
    return gx, gw, gb


def _weight_name(emission: Emission, w: relax.Expr, transposed: bool) -> str:
    if transposed or len(shape_of(w)) != 4:
        emission.refuse("is transposed or not 2-d; only plain 2-d convolutions are covered")
    name = emission.parameter_name(w)
    if name is None:
        emission.refuse("computes its weight in the forward pass; the weight must be a parameter itself")
    for reader in emission.parameters[name][0].users:
        if reader.op == "call_function" and reader.target not in WEIGHT_READERS:
            emission.refuse(f"has weight '{name}', which {reader.target} reads too; only the convolution may")
    return name


def _attributes(layer: Convolution) -> dict[str, object]:
    return {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "param": layer.name,
    }
