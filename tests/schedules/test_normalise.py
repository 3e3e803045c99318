"""Batch norm with residual add and ReLU: kernels against PyTorch's autograd in float64."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm

from mest_compiler.kernels.geometry import Plane
from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.schedules.cpu import normalise

from .tiles import NARROW, TOLERANCE, WIDE, border_of, compile_kernels, poisoned, tile, untile, vector

CHANNELS, MOMENTUM, EPS = 3, 0.1, 1e-5


@dataclass(frozen=True)
class Case:
    """A chain batch norm [+ residual] [+ ReLU up to `upper`]; borders of x, z, the residual, dx and each gradient."""

    batch: int
    plane: tuple[int, int]
    relu: bool = False
    residual: bool = False
    keep: bool = False
    borders: tuple[int, int, int, int] = (0, 1, 0, 1)
    gradients: tuple[int, ...] = (0,)
    upper: float = math.inf


CASES = {
    "plain": Case(5, (4, 5)),
    "relu": Case(8, (4, 4), relu=True, borders=(0, 2, 0, 0)),
    "residual": Case(11, (3, 9), residual=True, borders=(1, 0, 2, 1)),
    "residual, relu": Case(9, (5, 3), relu=True, residual=True, keep=True, borders=(0, 1, 1, 2)),
    "two gradients": Case(3, (9, 2), relu=True, gradients=(0, 1)),
    "two gradients, residual, relu, kept": Case(
        17, (1, 17), relu=True, residual=True, keep=True, borders=(2, 3, 0, 1), gradients=(2, 0)
    ),
    "residual, relu, not kept": Case(6, (2, 2), relu=True, residual=True, borders=(0, 0, 0, 0)),
    "relu to a bound": Case(9, (4, 5), relu=True, upper=0.75, borders=(0, 2, 0, 1)),
    "residual, relu to a bound, kept": Case(
        11, (3, 7), relu=True, residual=True, keep=True, upper=0.75, borders=(1, 1, 0, 0), gradients=(1, 0)
    ),
    "one pixel": Case(4, (1, 1), relu=True),
}
VECTORS = ((NARROW, "float32"), (NARROW, "float64"), (WIDE, "float32"))


def close(found: np.ndarray, wanted: torch.Tensor, dtype: str, what: str) -> None:
    """Fails unless equal relative to the largest number."""
    wanted = wanted.detach().numpy()
    error = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)
    assert error <= 4 * TOLERANCE[dtype], f"{what}: relative error {error}"


# Each chain with one kind of vectors; the others are slow.
@pytest.mark.parametrize(
    ("name", "bits", "dtype"),
    [
        pytest.param(name, *vectors, marks=() if (i + j) % 3 == 0 else pytest.mark.slow)
        for i, name in enumerate(CASES)
        for j, vectors in enumerate(VECTORS)
    ],
)
def test_training_and_gradients(name: str, bits: int, dtype: str) -> None:
    case, vec = CASES[name], vector(bits, dtype)
    xb, zb, rb, dxb = case.borders
    rng = np.random.default_rng(1)
    shape = (case.batch, CHANNELS, *case.plane)
    x, r = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    gradients = [rng.standard_normal(shape).astype(dtype) for _ in case.gradients]
    w, b, rm = (rng.standard_normal(CHANNELS).astype(dtype) for _ in range(3))
    rv = rng.random(CHANNELS).astype(dtype)

    tx, tr, tw, tb = (torch.from_numpy(a.astype(np.float64)).requires_grad_() for a in (x, r, w, b))
    trm, trv = (torch.from_numpy(a.astype(np.float64)) for a in (rm, rv))
    z = F.batch_norm(tx, trm, trv, tw, tb, True, MOMENTUM, EPS)
    z = z + tr if case.residual else z
    z = F.hardtanh(z, 0, case.upper) if case.relu else z
    z.backward(torch.from_numpy(sum(g.astype(np.float64) for g in gradients)))

    def plane(border: int) -> Plane:
        return Plane(*case.plane, border)

    residual = plane(rb) if case.residual else None
    n = Normalisation(case.batch, CHANNELS, vec, plane(xb), plane(zb), case.relu, residual, case.upper)
    planes = [plane(k) for k in case.gradients]
    kernels = compile_kernels(
        {
            "forward": normalise.forward(n, MOMENTUM, EPS),
            "backward": normalise.backward(n, planes, plane(dxb), case.keep),
        }
    )
    to = tvm.runtime.tensor

    def activation(border: int) -> tvm.runtime.Tensor:
        return poisoned((n.tiles, CHANNELS * plane(border).size, vec.lanes), dtype)

    # lanes past the batch hold any finite number in an input, zero in a gradient
    tiled_x, tiled_r = tile(x, plane(xb), vec, 1e3), tile(r, plane(rb), vec, -1e3)
    found_z, mean, rstd = activation(zb), poisoned((CHANNELS,), dtype), poisoned((CHANNELS,), dtype)
    statistics = to(rm), to(rv)
    rest = [tiled_r] if case.residual else []
    kernels["forward"](tiled_x, to(w), to(b), *statistics, *rest, found_z, mean, rstd)
    close(untile(found_z, case.batch, CHANNELS, plane(zb)), z, dtype, "z")
    assert (border_of(found_z, CHANNELS, plane(zb)) == 0).all()
    close(mean.numpy(), tx.mean((0, 2, 3)), dtype, "mean")
    close(statistics[0].numpy(), trm, dtype, "running mean")
    if case.batch * case.plane[0] * case.plane[1] > 1:
        close(statistics[1].numpy(), trv, dtype, "running variance")

    dx, dw, db = activation(dxb), poisoned((CHANNELS,), dtype), poisoned((CHANNELS,), dtype)
    kept = [activation(0)] if case.keep else []
    reads_z = [found_z] if case.relu and case.residual else []
    incoming = [tile(g, p, vec) for g, p in zip(gradients, planes, strict=True)]
    kernels["backward"](*incoming, tiled_x, *reads_z, to(w), to(b), mean, rstd, dx, dw, db, *kept)
    close(untile(dx, case.batch, CHANNELS, plane(dxb)), tx.grad, dtype, "dx")
    close(dw.numpy(), tw.grad, dtype, "dw")
    close(db.numpy(), tb.grad, dtype, "db")
    assert (border_of(dx, CHANNELS, plane(dxb)) == 0).all()
    assert (untile(dx, n.tiles * vec.lanes, CHANNELS, plane(dxb))[case.batch :] == 0).all()
    if kept:
        close(untile(kept[0], case.batch, CHANNELS, plane(0)), tr.grad, dtype, "the residual's gradient")
        assert (untile(kept[0], n.tiles * vec.lanes, CHANNELS, plane(0))[case.batch :] == 0).all()


@pytest.mark.parametrize("name", CASES)
def test_statistics_alone(name: str) -> None:
    number = list(CASES).index(name)
    case, (bits, dtype) = CASES[name], VECTORS[number % len(VECTORS)]
    vec, plane, rng = vector(bits, dtype), Plane(*case.plane, case.borders[0]), np.random.default_rng(4)
    x = rng.standard_normal((case.batch, CHANNELS, *case.plane)).astype(dtype)
    rm, rv = rng.standard_normal(CHANNELS).astype(dtype), rng.random(CHANNELS).astype(dtype)
    tx, trm, trv = (torch.from_numpy(a.astype(np.float64)) for a in (x, rm, rv))
    F.batch_norm(tx, trm, trv, None, None, True, MOMENTUM, EPS)
    n = Normalisation(case.batch, CHANNELS, vec, plane, plane, False)
    kernel = compile_kernels({"": normalise.statistics(n, MOMENTUM, EPS)})[""]
    mean, rstd = poisoned((CHANNELS,), dtype), poisoned((CHANNELS,), dtype)
    running = tvm.runtime.tensor(rm), tvm.runtime.tensor(rv)
    kernel(tile(x, plane, vec, 1e3), *running, mean, rstd)
    close(mean.numpy(), tx.mean((0, 2, 3)), dtype, "mean")
    close(rstd.numpy(), 1 / (tx.var((0, 2, 3), correction=0) + EPS).sqrt(), dtype, "rstd")
    close(running[0].numpy(), trm, dtype, "running mean")
    close(running[1].numpy(), trv, dtype, "running variance")


@pytest.mark.parametrize(("bits", "dtype"), VECTORS)
@pytest.mark.parametrize("name", ["plain", "residual, relu", "residual, relu to a bound, kept"])
def test_inference(name: str, bits: int, dtype: str) -> None:
    case, vec = CASES[name], vector(bits, dtype)
    rng = np.random.default_rng(2)
    x, r = (rng.standard_normal((case.batch, CHANNELS, *case.plane)).astype(dtype) for _ in range(2))
    w, b, rm = (rng.standard_normal(CHANNELS).astype(dtype) for _ in range(3))
    rv = rng.random(CHANNELS).astype(dtype)
    xp, zp, rp = (Plane(*case.plane, k) for k in case.borders[:3])
    wanted = F.batch_norm(*(torch.from_numpy(a.astype(np.float64)) for a in (x, rm, rv, w, b)), False, 0, EPS)
    wanted = F.hardtanh(wanted + torch.from_numpy(r), 0, case.upper) if case.residual else wanted
    n = Normalisation(case.batch, CHANNELS, vec, xp, zp, case.relu, rp if case.residual else None, case.upper)
    kernel = compile_kernels({"inference": normalise.inference(n, EPS)})["inference"]
    z = poisoned((n.tiles, CHANNELS * zp.size, vec.lanes), dtype)
    rest = [tile(r, rp, vec)] if case.residual else []
    kernel(tile(x, xp, vec), *(tvm.runtime.tensor(a) for a in (w, b, rm, rv)), *rest, z)
    close(untile(z, case.batch, CHANNELS, zp), wanted, dtype, "z")
    assert (border_of(z, CHANNELS, zp) == 0).all()


@pytest.mark.parametrize("opt_level", [0, 3])
@pytest.mark.parametrize("upper", [math.inf, 6.0])
def test_nan_passes_through_the_relu(upper: float, opt_level: int) -> None:
    vec, plane = vector(NARROW, "float32"), Plane(2, 2)
    n = Normalisation(2, CHANNELS, vec, plane, plane, True, None, upper)
    kernel = compile_kernels({"inference": normalise.inference(n, EPS)}, opt_level)["inference"]
    x = np.full((2, CHANNELS, 2, 2), np.nan, np.float32)
    z = poisoned((n.tiles, CHANNELS * plane.size, vec.lanes), "float32")
    kernel(tile(x, plane, vec), *(tvm.runtime.tensor(np.ones(CHANNELS, np.float32)) for _ in range(4)), z)
    assert np.isnan(untile(z, 2, CHANNELS, plane)).all()


@pytest.mark.parametrize("opt_level", [0, 3])
def test_statistics_far_from_zero(opt_level: int) -> None:
    # One pass over E[x^2] - E[x]^2 has no digit left here: float32 keeps 7, and mean^2 is 1e8 times the variance.
    batch, plane, vec = 64, Plane(16, 16), vector(NARROW, "float32")
    x = np.random.default_rng(3).standard_normal((batch, CHANNELS, 16, 16)) + 1e4
    x = x.astype(np.float32)
    exact = x.astype(np.float64)
    n = Normalisation(batch, CHANNELS, vec, plane, plane, False)
    made = {"forward": normalise.forward(n, 1.0, EPS), "alone": normalise.statistics(n, 1.0, EPS)}
    kernels, source = compile_kernels(made, opt_level), tile(x, plane, vec)
    z = poisoned((n.tiles, CHANNELS * plane.size, vec.lanes), "float32")
    ones, zeros = np.ones(CHANNELS, np.float32), np.zeros(CHANNELS, np.float32)
    affine = tvm.runtime.tensor(ones), tvm.runtime.tensor(zeros)
    for name, before, out in (("forward", affine, [z]), ("alone", (), [])):
        rm, rv = tvm.runtime.tensor(zeros), tvm.runtime.tensor(zeros)
        mean, rstd = (poisoned((CHANNELS,), "float32") for _ in range(2))
        kernels[name](source, *before, rm, rv, *out, mean, rstd)
        np.testing.assert_allclose(rv.numpy(), exact.var((0, 2, 3), ddof=1), rtol=1e-5)
        np.testing.assert_allclose(rstd.numpy(), 1 / np.sqrt(exact.var((0, 2, 3)) + EPS), rtol=1e-5)
        np.testing.assert_allclose(mean.numpy(), exact.mean((0, 2, 3)), rtol=2e-7)  # one unit in the last place
    centred = (exact - exact.mean((0, 2, 3), keepdims=True)) / exact.std((0, 2, 3), keepdims=True)
    # 1e4 itself has a resolution of 1e-3 in float32
    np.testing.assert_allclose(untile(z, batch, CHANNELS, plane), centred, atol=3e-3)
