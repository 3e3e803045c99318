"""Batch norm from sums that were taken elsewhere: against PyTorch in float64, and far from zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm

from mest_compiler.kernels.fusion import SUMS, ForwardSums, Fused
from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.schedules.cpu import dense_gather, normalise_from_sums
from mest_compiler.schedules.cpu.emit import Vec
from mest_compiler.schedules.cpu.gather import GatherKnobs

from .convolutions import Conv, y_buffer
from .epilogues import sums_buffer
from .test_normalise import CASES, CHANNELS, EPS, MOMENTUM, VECTORS, close
from .tiles import NARROW, border_of, compile_kernels, poisoned, tile, untile, vector

to = tvm.runtime.tensor
ALONE = [name for name, case in CASES.items() if len(case.gradients) == 1 and not case.keep]


def sums_of(first: np.ndarray, second: np.ndarray, vec: Vec) -> tvm.runtime.Tensor:
    """Terms [N, C, H, W] of the two sums -> SUMS; of lanes past the batch they are anything."""
    pair = np.stack([first.sum((2, 3)), second.sum((2, 3))], -1)
    return tile(pair[:, :, None].astype(vec.dtype), SUMS, vec, 1e3)


@pytest.mark.parametrize("name", CASES)
def test_training(name: str) -> None:
    bits, dtype = VECTORS[list(CASES).index(name) % len(VECTORS)]
    case, vec = CASES[name], vector(bits, dtype)
    rng = np.random.default_rng(1)
    x, r = (rng.standard_normal((case.batch, CHANNELS, *case.plane)).astype(dtype) for _ in range(2))
    w, b, rm = (rng.standard_normal(CHANNELS).astype(dtype) for _ in range(3))
    rv = rng.random(CHANNELS).astype(dtype)
    tx, tr, tw, tb, trm, trv = (torch.from_numpy(a.astype(np.float64)) for a in (x, r, w, b, rm, rv))
    z = F.batch_norm(tx, trm, trv, tw, tb, True, MOMENTUM, EPS)
    z = z + tr if case.residual else z
    z = F.hardtanh(z, 0, case.upper) if case.relu else z

    xp, zp, rp = (Plane(*case.plane, border) for border in case.borders[:3])
    n = Normalisation(case.batch, CHANNELS, vec, xp, zp, case.relu, rp if case.residual else None, case.upper)
    bare = Normalisation(case.batch, CHANNELS, vec, xp, xp, False)
    made = {
        "forward": normalise_from_sums.forward(n, MOMENTUM, EPS),
        "statistics": normalise_from_sums.statistics(bare, MOMENTUM, EPS),
    }
    kernels = compile_kernels(made)
    away = x.astype(np.float64) - x[:, :, :1, :1]
    found, rest = poisoned((n.tiles, CHANNELS * zp.size, vec.lanes), dtype), []
    if case.residual:
        rest = [tile(r, rp, vec, -1e3)]
    source, taken = tile(x, xp, vec, 1e3), sums_of(away, away**2, vec)
    for name, before, more, out in (("forward", [to(w), to(b)], rest, [found]), ("statistics", [], [], [])):
        running, mean, rstd = (to(rm), to(rv)), to(w * np.nan), to(w * np.nan)
        kernels[name](source, *before, *running, *more, taken, *out, mean, rstd)
        close(mean.numpy(), tx.mean((0, 2, 3)), dtype, f"{name}: mean")
        close(rstd.numpy(), 1 / (tx.var((0, 2, 3), correction=0) + EPS).sqrt(), dtype, f"{name}: rstd")
        close(running[0].numpy(), trm, dtype, f"{name}: running mean")
        close(running[1].numpy(), trv, dtype, f"{name}: running variance")
    close(untile(found, case.batch, CHANNELS, zp), z, dtype, "z")
    assert (border_of(found, CHANNELS, zp) == 0).all()


@pytest.mark.parametrize("name", ALONE)
def test_gradients(name: str) -> None:
    bits, dtype = VECTORS[ALONE.index(name) % len(VECTORS)]
    case, vec = CASES[name], vector(bits, dtype)
    xb, _, _, dxb = case.borders
    rng = np.random.default_rng(2)
    x, g = (rng.standard_normal((case.batch, CHANNELS, *case.plane)).astype(dtype) for _ in range(2))
    w, b = (rng.standard_normal(CHANNELS).astype(dtype) for _ in range(2))
    tx, tw, tb = (torch.from_numpy(a.astype(np.float64)).requires_grad_() for a in (x, w, b))
    F.batch_norm(tx, None, None, tw, tb, True, 0, EPS).backward(torch.from_numpy(g.astype(np.float64)))
    mean = x.mean((0, 2, 3), dtype=np.float64)
    rstd = 1 / np.sqrt(x.var((0, 2, 3), dtype=np.float64) + EPS)

    xp, gp, dxp = (Plane(*case.plane, border) for border in (xb, case.gradients[0], dxb))
    n = Normalisation(case.batch, CHANNELS, vec, xp, xp, False)
    kernel = compile_kernels({"backward": normalise_from_sums.backward(n, gp, dxp)})["backward"]
    dx = poisoned((n.tiles, CHANNELS * dxp.size, vec.lanes), dtype)
    dw, db = poisoned((CHANNELS,), dtype), poisoned((CHANNELS,), dtype)
    taken = sums_of(g, g.astype(np.float64) * (x - mean[:, None, None]), vec)
    vectors = (to(v.astype(dtype)) for v in (w, mean, rstd))
    kernel(tile(g, gp, vec), tile(x, xp, vec, 1e3), *vectors, taken, dx, dw, db)
    close(untile(dx, case.batch, CHANNELS, dxp), tx.grad, dtype, "dx")
    close(dw.numpy(), tw.grad, dtype, "dw")
    close(db.numpy(), tb.grad, dtype, "db")
    assert (border_of(dx, CHANNELS, dxp) == 0).all()
    assert (untile(dx, n.tiles * vec.lanes, CHANNELS, dxp)[case.batch :] == 0).all()


Statistics = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Mean, reciprocal deviation and running variance of each channel."""


def statistics(
    conv: Conv, x: np.ndarray, weight: np.ndarray, opt_level: int
) -> tuple[np.ndarray, list[Statistics], np.ndarray]:
    """(y in float64, statistics, z) of a convolution in float32 and the batch norm behind it: the statistics that are
    found with z, and those that are found alone."""
    vec = vector(NARROW, "float32")
    g = conv.geometry(vec)
    n = Normalisation(conv.batch, conv.filters, vec, g.y, g.y, False)
    kernels = compile_kernels(
        {
            "convolution": dense_gather.forward(g, 2, GatherKnobs(6, 2, True), Fused(ForwardSums())),
            "norm": normalise_from_sums.forward(n, 1.0, EPS),
            "alone": normalise_from_sums.statistics(n, 1.0, EPS),
        },
        opt_level,
    )
    y, sums, z = y_buffer(g), sums_buffer(g, conv.filters), y_buffer(g)
    kernels["convolution"](tile(x.astype(np.float32), g.x, vec, 1e3), to(weight.astype(np.float32)), y, sums)
    ones, found = np.ones(conv.filters, np.float32), []
    for name, before, out in (("norm", [to(ones), to(0 * ones)], [z]), ("alone", [], [])):
        rm, rv, mean, rstd = (to(0 * ones) for _ in range(4))
        kernels[name](y, *before, rm, rv, sums, *out, mean, rstd)
        found.append((mean.numpy(), rstd.numpy(), rv.numpy()))
    exact = untile(y, conv.batch, conv.filters, g.y).astype(np.float64)
    return exact, found, untile(z, conv.batch, conv.filters, g.y)


def check_statistics(exact: np.ndarray, found: list[Statistics]) -> None:
    """Against those of float64: the mean to a unit in the last place of the largest number."""
    room = 2e-7 * np.abs(exact).max((0, 2, 3))
    for mean, rstd, rv in found:
        np.testing.assert_allclose(rv, exact.var((0, 2, 3), ddof=1), rtol=1e-5)
        np.testing.assert_allclose(rstd, 1 / np.sqrt(exact.var((0, 2, 3)) + EPS), rtol=1e-5)
        assert (np.abs(mean - exact.mean((0, 2, 3))) <= room).all()


@pytest.mark.parametrize(("batch", "opt_level"), [(64, 3), pytest.param(13, 0, marks=pytest.mark.slow)])
def test_statistics_far_from_zero(batch: int, opt_level: int) -> None:
    # E[x^2] - E[x]^2 has no digit left here: float32 keeps 7, and mean^2 is 1e8 times the variance.
    conv = Conv(3, 3, (16, 16), batch=batch)
    x = np.random.default_rng(3).standard_normal((batch, 3, 16, 16)) + 1e4
    weight = np.zeros(conv.weight_shape)
    weight[[0, 1, 2], [0, 1, 2], 1, 1] = 1
    exact, found, z = statistics(conv, x, weight, opt_level)
    np.testing.assert_array_equal(exact, x.astype(np.float32))
    check_statistics(exact, found)
    centred = (exact - exact.mean((0, 2, 3), keepdims=True)) / exact.std((0, 2, 3), keepdims=True)
    # 1e4 itself has a resolution of 1e-3 in float32
    np.testing.assert_allclose(z, centred, atol=3e-3)


@pytest.mark.parametrize("plane", [(1, 1), (5, 7)])
def test_statistics_where_float32_ends(plane: tuple[int, int]) -> None:
    # Numbers around 1e6 have a resolution of 1/16: a mean that is rounded before it is taken off spoils the variance.
    conv = Conv(2, 2, plane, kernel=(1, 1), padding=(0, 0), batch=77)
    x = np.random.default_rng(6).standard_normal((77, 2, *plane)) + 1e6
    check_statistics(*statistics(conv, x, np.eye(2)[:, :, None, None], 0)[:2])


def test_statistics_where_the_border_is_another_world() -> None:
    # A plane's corner, from which everything is counted, sees four of nine places of the kernel.
    conv = Conv(2, 4, (32, 32), batch=9)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((9, 2, 32, 32)) + 1e4
    check_statistics(*statistics(conv, x, 1 + 0.1 * rng.standard_normal(conv.weight_shape), 0)[:2])


def test_statistics_of_examples_far_from_each_other() -> None:
    conv = Conv(2, 2, (7, 5), kernel=(1, 1), padding=(0, 0), batch=11)
    x = np.random.default_rng(5).standard_normal((11, 2, 7, 5)) + 1e4 * np.arange(-5, 6)[:, None, None, None]
    check_statistics(*statistics(conv, x, np.eye(2)[:, :, None, None], 0)[:2])


def test_statistics_of_a_constant() -> None:
    conv = Conv(2, 2, (7, 5), kernel=(1, 1), padding=(0, 0), batch=11)
    _, found, _ = statistics(conv, np.full((11, 2, 7, 5), 1234.5), np.eye(2)[:, :, None, None], 0)
    for mean, rstd, rv in found:
        np.testing.assert_array_equal(mean, 1234.5)
        np.testing.assert_array_equal(rv, 0)
        np.testing.assert_allclose(rstd, 1 / np.sqrt(EPS), rtol=1e-6)


def test_a_nan_passes_through() -> None:
    conv = Conv(2, 2, (3, 3), kernel=(1, 1), padding=(0, 0), batch=3)
    x = np.ones((3, 2, 3, 3))
    x[1, 0, 2, 2] = np.nan
    weight = np.zeros((2, 2, 1, 1))
    weight[0, 0] = 1
    _, found, z = statistics(conv, x, weight, 3)
    assert np.isnan(z[:, 0]).all()
    assert all(np.isnan(vector[0]) for vectors in found for vector in vectors)
