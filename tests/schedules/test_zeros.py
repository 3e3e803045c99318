"""Dense kernels with zeros kept: values put back into a dense weight and taken out of its gradient, in every scheme.

The whole way through a dense kernel is tested with the other kernels of a layer, in tests/tuning.
"""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from mest_compiler.kernels.families import FAMILIES
from mest_compiler.schedules.cpu import zeros

from .convolutions import Conv
from .sparse_layers import SCHEMES, SparseCase, fitted, hostile_masks, sparse_conv
from .test_sparse_convolution import VECTORS
from .tiles import compile_kernels, poisoned, vector

# Weights of any number of elements, a multiple of a vector's or not.
LAYERS = {"odd": Conv(3, 5, (4, 5), batch=3), "even": Conv(8, 8, (5, 4), stride=(2, 1), batch=9)}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", LAYERS)
def test_values_are_put_back_and_taken_out(name: str, scheme: str) -> None:
    vec = vector(*VECTORS[SCHEMES.index(scheme) % len(VECTORS)])
    conv = fitted(LAYERS[name], scheme)
    layer = sparse_conv(conv, vec, scheme)
    dtypes = FAMILIES["zeros"].dtypes(layer, "forward", 1)
    machine = compile_kernels({"expand": zeros.expand(layer, dtypes), "compact": zeros.compact(layer, dtypes)})
    dense = np.arange(1, conv_size(conv) + 1, dtype=vec.dtype).reshape(conv.weight_shape)
    for mask_name, mask in hostile_masks(scheme, conv.weight_shape).items():
        case = SparseCase.make(conv, layer, mask)
        s, indices = case.structure, case.index("forward", "zeros", 1)
        weight, dv = poisoned(layer.sparse.shape, vec.dtype), poisoned(s.spec.values_shape, vec.dtype)
        machine["expand"](case.values(), *indices, weight)
        np.testing.assert_array_equal(weight.numpy(), case.data.weight, err_msg=mask_name)
        machine["compact"](tvm.runtime.tensor(dense), *indices, dv)
        np.testing.assert_array_equal(dv.numpy()[: s.entries], s.compact(dense)[: s.entries], err_msg=mask_name)
        assert np.isnan(dv.numpy()[s.entries :]).all(), mask_name  # the tail is left alone


def conv_size(conv: Conv) -> int:
    """Weights of a layer."""
    return int(np.prod(conv.weight_shape))
