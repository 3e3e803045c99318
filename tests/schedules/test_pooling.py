"""Pooling, forward and backward, against PyTorch; ties and minus infinity as PyTorch decides them."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _pytest.mark import ParameterSet

from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.pool import Pool
from mest_compiler.schedules.cpu import pooling

from .tiles import NARROW, WIDE, border_of, compile_kernels, poisoned, tile, untile, vector

CHANNELS = 3
# plane, kernel, stride, padding, dilation, ceil mode
WINDOWS = {
    "2x2": ((6, 8), (2, 2), (2, 2), (0, 0), (1, 1), False),
    "2x2, odd plane": ((7, 5), (2, 2), (2, 2), (0, 0), (1, 1), False),
    "3x3, stride 2, padded": ((7, 8), (3, 3), (2, 2), (1, 1), (1, 1), False),
    "overlapping": ((5, 6), (3, 2), (1, 1), (1, 0), (1, 1), False),
    "gaps": ((7, 7), (1, 2), (3, 3), (0, 0), (1, 1), False),
    "dilation": ((9, 8), (3, 2), (2, 1), (1, 1), (2, 3), False),
    "ceil mode": ((7, 6), (3, 3), (2, 2), (0, 0), (1, 1), True),
    "whole plane": ((4, 3), (4, 3), (4, 3), (0, 0), (1, 1), False),
}


def one_kind_of_vectors(table: Iterable[str]) -> list[ParameterSet]:
    """Each of a table with one kind of vectors; with the others it is slow."""
    kinds = [(NARROW, "float32"), (NARROW, "float64"), (WIDE, "float32")]
    return [
        pytest.param(name, *vectors, marks=() if (i + j) % 3 == 0 else pytest.mark.slow)
        for i, name in enumerate(table)
        for j, vectors in enumerate(kinds)
    ]


def check(name: str, bits: int, dtype: str, x: torch.Tensor, borders: tuple[int, int]) -> None:
    """Forward and backward on x [N, C, H, W]; borders of x and y."""
    plane, kernel, stride, padding, dilation, ceil = WINDOWS[name]
    vec, batch = vector(bits, dtype), len(x)
    x = x.to(getattr(torch, dtype)).requires_grad_()
    y = F.max_pool2d(x, kernel, stride, padding, dilation, ceil)
    gy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    y.backward(gy)
    xp, yp = Plane(*plane, borders[0]), Plane(*y.shape[2:], borders[1])
    p = Pool(-(-batch // vec.lanes), CHANNELS, vec, xp, yp, kernel, stride, padding, dilation)
    kernels = compile_kernels({"forward": pooling.forward(p), "backward": pooling.backward(p)})
    found = poisoned((p.tiles, CHANNELS * yp.size, vec.lanes), dtype)
    index = poisoned((p.tiles, CHANNELS * y.shape[2] * y.shape[3], vec.lanes), "int32")
    kernels["forward"](tile(x.detach().numpy(), xp, vec), found, index)
    np.testing.assert_array_equal(untile(found, batch, CHANNELS, yp), y.detach().numpy())
    assert (border_of(found, CHANNELS, yp) == 0).all()
    dx = poisoned((p.tiles, CHANNELS * xp.size, vec.lanes), dtype)
    kernels["backward"](tile(gy.numpy(), yp, vec), index, dx)
    np.testing.assert_allclose(untile(dx, batch, CHANNELS, xp), x.grad.numpy(), rtol=1e-6, atol=1e-6)
    assert (border_of(dx, CHANNELS, xp) == 0).all()


@pytest.mark.parametrize(("name", "bits", "dtype"), one_kind_of_vectors(WINDOWS))
def test_window(name: str, bits: int, dtype: str) -> None:
    x = torch.randn(5, CHANNELS, *WINDOWS[name][0], generator=torch.Generator().manual_seed(0))
    check(name, bits, dtype, x, (2, 1))


@pytest.mark.parametrize("name", ["2x2, odd plane", "3x3, stride 2, padded"])
def test_first_of_equal_maxima(name: str) -> None:
    x = torch.randint(0, 3, (5, CHANNELS, *WINDOWS[name][0]), generator=torch.Generator().manual_seed(0)).double()
    check(name, NARROW, "float64", x, (0, 0))


@pytest.mark.parametrize("name", ["2x2", "3x3, stride 2, padded"])
def test_a_plane_of_minus_infinity_keeps_a_position_inside(name: str) -> None:
    x = torch.randn(2, CHANNELS, *WINDOWS[name][0], generator=torch.Generator().manual_seed(0))
    x[:, 0] = float("-inf")
    check(name, NARROW, "float32", x, (1, 0))


def test_nan_is_the_maximum() -> None:
    x = torch.randn(2, CHANNELS, *WINDOWS["2x2"][0], generator=torch.Generator().manual_seed(0))
    x[0, 0, 1, 1] = x[1, 2, 0, 0] = float("nan")
    check("2x2", NARROW, "float32", x, (1, 0))


# plane, kernel, stride, padding, divisor (0: the image's pixels in a window)
AVERAGES = {
    "2x2": ((6, 8), (2, 2), (2, 2), (0, 0), 4),
    "2x2, odd plane": ((7, 5), (2, 2), (2, 2), (0, 0), 4),
    "3x3, stride 2, padded": ((7, 8), (3, 3), (2, 2), (1, 1), 9),
    "3x3, stride 2, pixels inside": ((7, 8), (3, 3), (2, 2), (1, 1), 0),
    "overlapping, pixels inside": ((5, 6), (3, 2), (1, 1), (1, 0), 0),
    "gaps, a divisor of its own": ((7, 7), (1, 2), (3, 3), (0, 0), 5),
}


@pytest.mark.parametrize(("name", "bits", "dtype"), one_kind_of_vectors(AVERAGES))
def test_average(name: str, bits: int, dtype: str) -> None:
    plane, kernel, stride, padding, divisor = AVERAGES[name]
    vec, batch = vector(bits, dtype), 5
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, CHANNELS, *plane, generator=generator).to(getattr(torch, dtype)).requires_grad_()
    y = F.avg_pool2d(x, kernel, stride, padding, count_include_pad=divisor != 0, divisor_override=divisor or None)
    gy = torch.randn(y.shape, generator=generator).to(x.dtype)
    y.backward(gy)
    xp, yp = Plane(*plane, 2), Plane(*y.shape[2:], 1)
    p = Pool(-(-batch // vec.lanes), CHANNELS, vec, xp, yp, kernel, stride, padding, (1, 1))
    kernels = compile_kernels(
        {"forward": pooling.average(p, divisor), "backward": pooling.average_backward(p, divisor)}
    )
    found = poisoned((p.tiles, CHANNELS * yp.size, vec.lanes), dtype)
    kernels["forward"](tile(x.detach().numpy(), xp, vec), found)
    np.testing.assert_allclose(untile(found, batch, CHANNELS, yp), y.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert (border_of(found, CHANNELS, yp) == 0).all()
    dx = poisoned((p.tiles, CHANNELS * xp.size, vec.lanes), dtype)
    kernels["backward"](tile(gy.numpy(), yp, vec), dx)
    np.testing.assert_allclose(untile(dx, batch, CHANNELS, xp), x.grad.numpy(), rtol=1e-5, atol=1e-6)
    assert (border_of(dx, CHANNELS, xp) == 0).all()
    assert (untile(dx, p.tiles * vec.lanes, CHANNELS, xp)[batch:] == 0).all()
