"""Dropout over batch tiles on OpenCL: the same mask as the reference, whatever the lanes and borders are."""

import numpy as np
import pytest
import tvm

from mest_compiler.dropout_mask import keep
from mest_compiler.kernels.dropout import Dropout
from mest_compiler.kernels.geometry import Plane
from mest_compiler.schedules.opencl.dropout import dropout
from mest_compiler.schedules.opencl.emit import Vec

from ..tiles import border_of, poisoned, tile, untile
from .launching import compile_kernels


@pytest.mark.parametrize("vec", [Vec(8, "float32"), Vec(16, "float64"), Vec(64, "float32")], ids=str)
@pytest.mark.parametrize(
    ("batch", "channels", "size", "p", "layer", "seed"),
    [(5, 3, (4, 5), 0.5, 0, 0), (17, 2, (3, 7), 0.1, 1, 2**32 - 1), (8, 1, (1, 1), 0.9, 30, 123456789)],
)
def test_mask(batch, channels, size, p, layer, seed, vec) -> None:
    x = np.random.default_rng(0).standard_normal((batch, channels, *size)).astype(vec.dtype)
    d = Dropout(-(-batch // vec.lanes), channels, vec, Plane(*size, 1), Plane(*size, 2), p, layer)
    y = poisoned((d.tiles, channels * d.y.size, vec.lanes), vec.dtype)
    kernel = compile_kernels({"dropout": dropout(d)})["dropout"]
    kernel(tile(x, d.x, vec), tvm.runtime.tensor(np.asarray(seed, np.uint32)), y)
    wanted = np.where(keep(x.shape, seed, layer, p), x * np.asarray(1 / (1 - p), vec.dtype), 0)
    np.testing.assert_array_equal(untile(y, batch, channels, d.y), wanted)
    assert (border_of(y, channels, d.y) == 0).all()
    assert (untile(y, d.tiles * vec.lanes, channels, d.y)[batch:] == 0).all()
