"""Dropout over batch tiles: the same mask as the reference, whatever the lanes and borders are."""

from itertools import product

import numpy as np
import pytest
import tvm

from mest_compiler.dropout_mask import keep
from mest_compiler.kernels.dropout import Dropout
from mest_compiler.kernels.geometry import Plane
from mest_compiler.schedules.cpu.dropout import dropout

from .tiles import NARROW, WIDE, border_of, compile_kernels, poisoned, tile, untile, vector

# (batch, channels, plane, probability, layer, seed)
LAYERS = [(5, 3, (4, 5), 0.5, 0, 0), (17, 2, (3, 7), 0.1, 1, 2**32 - 1), (8, 1, (1, 1), 0.9, 30, 123456789)]
VECTORS = [(NARROW, "float32"), (NARROW, "float64"), (WIDE, "float32")]
# Each layer and each kind of vectors twice, once of them optimised; what is left is slow.
QUICK = {(0, 0, 0), (0, 1, 3), (1, 1, 0), (1, 2, 3), (2, 2, 0), (2, 0, 3)}


@pytest.mark.parametrize(
    ("layer", "vectors", "opt_level"),
    [
        pytest.param(LAYERS[i], VECTORS[j], k, marks=() if (i, j, k) in QUICK else pytest.mark.slow)
        for i, j, k in product(range(3), range(3), (0, 3))
    ],
)
def test_mask(layer: tuple, vectors: tuple[int, str], opt_level: int) -> None:
    (batch, channels, size, p, number, seed), (_, dtype) = layer, vectors
    vec = vector(*vectors)
    x = np.random.default_rng(0).standard_normal((batch, channels, *size)).astype(dtype)
    d = Dropout(-(-batch // vec.lanes), channels, vec, Plane(*size, 1), Plane(*size, 2), p, number)
    y = poisoned((d.tiles, channels * d.y.size, vec.lanes), dtype)
    kernel = compile_kernels({"dropout": dropout(d)}, opt_level)["dropout"]
    kernel(tile(x, d.x, vec), tvm.runtime.tensor(np.asarray(seed, np.uint32)), y)
    wanted = np.where(keep(x.shape, seed, number, p), x * np.asarray(1 / (1 - p), dtype), 0)
    np.testing.assert_array_equal(untile(y, batch, channels, d.y), wanted)
    assert (border_of(y, channels, d.y) == 0).all()
    assert (untile(y, d.tiles * vec.lanes, channels, d.y)[batch:] == 0).all()
