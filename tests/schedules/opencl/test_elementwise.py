"""Layout in and out, element-wise work, sums and means over planes on OpenCL: kernels against NumPy."""

import numpy as np
import pytest
import tvm

from mest_compiler.kernels.geometry import Plane
from mest_compiler.schedules.emit import Expr
from mest_compiler.schedules.opencl import elementwise
from mest_compiler.schedules.opencl.emit import Vec

from ..tiles import TOLERANCE, border_of, poisoned, tile, untile
from .launching import compile_kernels

VECTORS = ((8, "float32"), (16, "float64"), (64, "float32"))
# batch, channels, plane, border
SHAPES = ((5, 3, (4, 5), 1), (16, 2, (3, 3), 0), (9, 1, (1, 1), 2), (1, 4, (2, 7), 3), (70, 3, (8, 8), 1))


def cases() -> list:
    """Every vector and every shape in the default suite, all pairs in the slow one."""
    found = []
    for i, vec in enumerate(VECTORS):
        for j, shape in enumerate(SHAPES):
            marks = () if (i + j) % len(VECTORS) == 0 or (i, j) == (2, 4) else pytest.mark.slow
            found.append(pytest.param(Vec(*vec), shape, marks=marks, id=f"{vec}-{shape}"))
    return found


every_case = pytest.mark.parametrize(("vec", "shape"), cases())


def numbers(vec: Vec, *shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers of the vectors' type."""
    return np.random.default_rng(seed).standard_normal(shape).astype(vec.dtype)


def activation(n: int, c: int, plane: Plane, vec: Vec) -> tvm.runtime.Tensor:
    """A poisoned activation in batch tiles."""
    return poisoned((-(-n // vec.lanes), c * plane.size, vec.lanes), vec.dtype)


@every_case
def test_into_tiles_and_back(vec: Vec, shape) -> None:
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


@every_case
def test_features_and_back(vec: Vec, shape) -> None:
    n, c, _, _ = shape
    x, vectors = numbers(vec, n, c), -(-n // vec.lanes)
    kernels = compile_kernels({"in": elementwise.features_in(n, c, vec), "out": elementwise.features_out(n, c, vec)})
    tiled, back = poisoned((1, c * vectors, vec.lanes), vec.dtype), poisoned(x.shape, vec.dtype)
    kernels["in"](tvm.runtime.tensor(x), tiled)
    wanted = np.zeros((c, vectors * vec.lanes), vec.dtype)  # lanes past the batch are zero
    wanted[:, :n] = x.T
    np.testing.assert_array_equal(tiled.numpy().reshape(wanted.shape), wanted)
    kernels["out"](tiled, back)
    np.testing.assert_array_equal(back.numpy(), x)


@every_case
def test_elementwise_over_several_borders(vec: Vec, shape) -> None:
    n, c, size, border = shape
    a, b, scale = numbers(vec, n, c, *size), numbers(vec, n, c, *size, seed=1), numbers(vec, c, seed=2)
    planes, out = [Plane(*size, border), Plane(*size)], Plane(*size, (border + 1) % 3)
    tiles = -(-n // vec.lanes)

    def mix(a: Expr, b: Expr, s: Expr) -> Expr:
        return vec.at_most(vec.at_least(a * s, b), vec.const(1 / 3))

    function = elementwise.elementwise("mix", tiles, c, planes, out, vec, mix, channel_inputs=1)
    y = activation(n, c, out, vec)
    operands = [tile(v, p, vec) for v, p in zip((a, b), planes, strict=True)]
    compile_kernels({"mix": function})["mix"](*operands, tvm.runtime.tensor(scale), y)
    wanted = np.minimum(np.maximum(a * scale[:, None, None], b), np.asarray(1 / 3, vec.dtype))
    np.testing.assert_array_equal(untile(y, n, c, out), wanted)
    assert (border_of(y, c, out) == 0).all()


@every_case
def test_sums_and_means(vec: Vec, shape) -> None:
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


@every_case
def test_broadcast_over_planes(vec: Vec, shape) -> None:
    n, c, size, border = shape
    plane, x = Plane(*size, border), numbers(vec, n, c)
    y = activation(n, c, plane, vec)
    compile_kernels({"spread": elementwise.plane_broadcast(n, c, plane, vec)})["spread"](tvm.runtime.tensor(x), y)
    wanted = np.broadcast_to(x[:, :, None, None], (n, c, *size))
    np.testing.assert_array_equal(y.numpy(), tile(wanted, plane, vec).numpy())  # border and padded lanes are zero


@pytest.mark.parametrize(("shape", "dtype"), [((), "int64"), ((7,), "float32"), ((26, 30), "float64")])
def test_assign(shape: tuple[int, ...], dtype: str) -> None:
    old, new = poisoned(shape, dtype), np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)
    compile_kernels({"assign": elementwise.assign(shape, dtype)})["assign"](old, tvm.runtime.tensor(new))
    np.testing.assert_array_equal(old.numpy(), new)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounds_and_constants(dtype: str) -> None:
    """A NaN passes through bounds, and constants hold to the last bit."""
    vec, plane = Vec(8, dtype), Plane(3, 3)
    values = (-1 / 3, 16777217.0, np.finfo(dtype).smallest_subnormal, 1.7e38)
    made = {
        "relu": elementwise.elementwise("r", 1, 1, [plane], plane, vec, lambda x: vec.at_least(x, vec.const(0))),
        "bound": elementwise.elementwise("b", 1, 1, [plane], plane, vec, lambda x: vec.at_most(x, vec.const(0))),
        **{v: elementwise.elementwise("c", 1, 1, [plane], plane, vec, lambda x, v=v: vec.const(v)) for v in values},
    }
    x = np.full((8, 1, 3, 3), np.nan, dtype)
    x[0, 0], x[1, 0] = 1, -1
    found = {}
    for name, kernel in compile_kernels(made).items():
        y = activation(8, 1, plane, vec)
        kernel(tile(x, plane, vec), y)
        found[name] = untile(y, 8, 1, plane)
    for name, one, minus in (("relu", 1, 0), ("bound", 0, -1)):
        assert (found[name][0] == one).all() and (found[name][1] == minus).all() and np.isnan(found[name][2:]).all()
    for value in values:
        assert (found[value] == np.asarray(value, dtype)).all(), value
