"""Layout in and out, element-wise work, sums and means over planes: kernels against NumPy."""

import numpy as np
import pytest
import tvm
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane
from mest_compiler.schedules.cpu import elementwise

from .tiles import NARROW, TOLERANCE, WIDE, border_of, compile_kernels, poisoned, tile, untile, vector

VECTORS = ((NARROW, "float32"), (NARROW, "float64"), (WIDE, "float32"))
# batch, channels, plane, border
SHAPES = ((5, 3, (4, 5), 1), (16, 2, (3, 3), 0), (9, 1, (1, 1), 2), (1, 4, (2, 7), 3))


@pytest.fixture(params=VECTORS, ids=lambda p: f"{p[0]}-{p[1]}")
def vec(request: pytest.FixtureRequest):
    return vector(*request.param)


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest):
    return request.param


def numbers(vec, *shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers of the vectors' type."""
    return np.random.default_rng(seed).standard_normal(shape).astype(vec.dtype)


def activation(n: int, c: int, plane: Plane, vec) -> tvm.runtime.Tensor:
    """A poisoned activation in batch tiles."""
    return poisoned((-(-n // vec.lanes), c * plane.size, vec.lanes), vec.dtype)


def test_into_tiles_and_back(vec, shape) -> None:
    n, c, size, border = shape
    plane, x = Plane(*size, border), numbers(vec, n, c, *size)
    kernels = compile_kernels(
        {"in": elementwise.tile_in(n, c, plane, vec), "out": elementwise.tile_out(n, c, plane, vec)}
    )
    tiled, back = activation(n, c, plane, vec), poisoned(x.shape, vec.dtype)
    kernels["in"](tvm.runtime.tensor(x), tiled)
    np.testing.assert_array_equal(tiled.numpy(), tile(x, plane, vec).numpy())  # border and padded lanes are zero
    kernels["out"](tiled, back)
    np.testing.assert_array_equal(back.numpy(), x)


def test_elementwise_over_several_borders(vec, shape) -> None:
    n, c, size, border = shape
    a, b, scale = numbers(vec, n, c, *size), numbers(vec, n, c, *size, seed=1), numbers(vec, c, seed=2)
    planes, out = [Plane(*size, border), Plane(*size)], Plane(*size, (border + 1) % 3)
    tiles = -(-n // vec.lanes)
    function = elementwise.elementwise(
        "mix", tiles, c, planes, out, vec, lambda a, b, s: T.max(a * s, b), channel_inputs=1
    )
    y = activation(n, c, out, vec)
    operands = [tile(v, p, vec) for v, p in zip((a, b), planes, strict=True)]
    compile_kernels({"mix": function})["mix"](*operands, tvm.runtime.tensor(scale), y)
    np.testing.assert_array_equal(untile(y, n, c, out), np.maximum(a * scale[:, None, None], b))
    assert (border_of(y, c, out) == 0).all()


def test_sums_and_means(vec, shape) -> None:
    n, c, size, border = shape
    plane, x = Plane(*size, border), numbers(vec, n, c, *size)
    tiles = -(-n // vec.lanes)
    kernels = compile_kernels(
        {"sum": elementwise.channel_sum(tiles, c, plane, vec), "mean": elementwise.plane_mean(n, c, plane, vec)}
    )
    exact, tolerance = x.astype(np.float64), TOLERANCE[vec.dtype]
    total, mean = poisoned((c,), vec.dtype), poisoned((n, c), vec.dtype)
    kernels["sum"](tile(x, plane, vec), total)
    np.testing.assert_allclose(total.numpy(), exact.sum((0, 2, 3)), rtol=tolerance, atol=10 * tolerance)
    kernels["mean"](tile(x, plane, vec, padding=1e3), mean)
    np.testing.assert_allclose(mean.numpy(), exact.mean((2, 3)), rtol=tolerance, atol=tolerance)


def test_broadcast_over_planes(vec, shape) -> None:
    n, c, size, border = shape
    plane, x = Plane(*size, border), numbers(vec, n, c)
    y = activation(n, c, plane, vec)
    compile_kernels({"spread": elementwise.plane_broadcast(n, c, plane, vec)})["spread"](tvm.runtime.tensor(x), y)
    wanted = np.broadcast_to(x[:, :, None, None], (n, c, *size))
    np.testing.assert_array_equal(y.numpy(), tile(wanted, plane, vec).numpy())  # border and padded lanes are zero


@pytest.mark.parametrize(("shape", "dtype"), [((), "int64"), ((7,), "float32"), ((2, 3), "float64")])
def test_assign(shape: tuple[int, ...], dtype: str) -> None:
    old, new = poisoned(shape, dtype), np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)
    compile_kernels({"assign": elementwise.assign(shape, dtype)})["assign"](old, tvm.runtime.tensor(new))
    np.testing.assert_array_equal(old.numpy(), new)
