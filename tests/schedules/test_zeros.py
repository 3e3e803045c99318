"""Dense kernels with zeros kept: values put back into a dense weight and taken out of its gradient, in every scheme."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm

from mest_compiler.kernels.indices import DIRECTIONS
from mest_compiler.schedules.cpu import choose, zeros
from mest_compiler.schedules.cpu.choose import dtypes_of
from mest_compiler.tuning.layer_run import Operands, kernel_call

from .convolutions import Conv
from .sparse_layers import SCHEMES, SparseCase, fitted, hostile_masks, sparse_conv
from .test_sparse_convolution import VECTORS
from .tiles import compile_kernels, poisoned, profile, vector

# Weights of any number of elements, a multiple of a vector's or not.
LAYERS = {"odd": Conv(3, 5, (4, 5), batch=3), "even": Conv(8, 8, (5, 4), stride=(2, 1), batch=9)}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", LAYERS)
def test_values_are_put_back_and_taken_out(name: str, scheme: str) -> None:
    vec = vector(*VECTORS[SCHEMES.index(scheme) % len(VECTORS)])
    conv = fitted(LAYERS[name], scheme)
    layer = sparse_conv(conv, vec, scheme)
    dtypes = dtypes_of("zeros", "forward", layer, 1)
    machine = compile_kernels({"expand": zeros.expand(layer, dtypes), "compact": zeros.compact(layer, dtypes)})
    dense = np.arange(1, conv_size(conv) + 1, dtype=vec.dtype).reshape(conv.weight_shape)
    for mask_name, mask in hostile_masks(scheme, conv.weight_shape).items():
        case = SparseCase.make(conv, layer, mask)
        s, indices = case.structure, case.index("forward", "zeros", 1)
        weight, dv = poisoned(layer.shape, vec.dtype), poisoned((s.capacity, s.unit_size), vec.dtype)
        machine["expand"](case.values(), *indices, weight)
        np.testing.assert_array_equal(weight.numpy(), case.data.weight, err_msg=mask_name)
        machine["compact"](tvm.runtime.tensor(dense), *indices, dv)
        np.testing.assert_array_equal(dv.numpy()[: s.entries], s.compact(dense)[: s.entries], err_msg=mask_name)
        assert np.isnan(dv.numpy()[s.entries :]).all(), mask_name  # the tail is left alone


def conv_size(conv: Conv) -> int:
    """Weights of a layer."""
    return int(np.prod(conv.weight_shape))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_whole_way_through_a_dense_kernel(scheme: str) -> None:
    bits, dtype = VECTORS[SCHEMES.index(scheme) % len(VECTORS)]
    conv, device = fitted(LAYERS["even"], scheme), profile(bits)
    layer = sparse_conv(conv, vector(bits, dtype), scheme)
    g = layer.geometry
    case = SparseCase.make(conv, layer, hostile_masks(scheme, conv.weight_shape)["random"])
    o = Operands.of(g, case.data.x.numpy(), case.data.dy.numpy(), case.values().numpy())
    for tensor in (o.y, o.dx, o.dw):
        tensor.copyfrom(np.full(tensor.shape, np.nan, dtype))
    for direction in DIRECTIONS:
        choice = replace(choose.dense(direction, device, g), indexing="zeros")
        kernel_call(direction, choice, device, g, o, layer, case.structure)()
    case.data.check_y("forward", o.y)
    case.data.check_dx("backward_data", o.dx)
    entries = case.structure.entries
    case.data.check("dw", o.dw.numpy()[:entries], case.structure.compact(case.data.dw_ref)[:entries])
