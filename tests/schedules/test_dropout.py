"""Dropout over batch tiles: the same mask as the reference, whatever the lanes and borders are."""

import numpy as np
import pytest
import tvm

from mest_compiler.frontend.dropout_mask import keep
from mest_compiler.kernels.dropout import Dropout
from mest_compiler.kernels.geometry import Plane
from mest_compiler.schedules.cpu.dropout import dropout

from .tiles import NARROW, WIDE, border_of, compile_kernels, poisoned, tile, untile, vector


@pytest.mark.parametrize("opt_level", [0, 3])
@pytest.mark.parametrize(("bits", "dtype"), [(NARROW, "float32"), (NARROW, "float64"), (WIDE, "float32")])
@pytest.mark.parametrize(
    ("batch", "channels", "size", "p", "layer", "seed"),
    [(5, 3, (4, 5), 0.5, 0, 0), (17, 2, (3, 7), 0.1, 1, 2**32 - 1), (8, 1, (1, 1), 0.9, 30, 123456789)],
)
def test_mask(batch, channels, size, p, layer, seed, bits, dtype, opt_level) -> None:
    vec = vector(bits, dtype)
    x = np.random.default_rng(0).standard_normal((batch, channels, *size)).astype(dtype)
    d = Dropout(-(-batch // vec.lanes), channels, vec, Plane(*size, 1), Plane(*size, 2), p, layer)
    y = poisoned((d.tiles, channels * d.y.size, vec.lanes), dtype)
    kernel = compile_kernels({"dropout": dropout(d)}, opt_level)["dropout"]
    kernel(tile(x, d.x, vec), tvm.runtime.tensor(np.asarray(seed, np.uint32)), y)
    wanted = np.where(keep(x.shape, seed, layer, p), x * np.asarray(1 / (1 - p), dtype), 0)
    np.testing.assert_array_equal(untile(y, batch, channels, d.y), wanted)
    assert (border_of(y, channels, d.y) == 0).all()
    assert (untile(y, d.tiles * vec.lanes, channels, d.y)[batch:] == 0).all()
