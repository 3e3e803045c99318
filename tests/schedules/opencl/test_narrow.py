"""Kernels with float16 in memory: every number is read exactly and rounded once, and nothing else changes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import tvm
from tvm import tirx

from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.schedules.opencl import dense_gather, elementwise, narrow, normalise
from mest_compiler.schedules.opencl.emit import Vec
from mest_compiler.schedules.opencl.gather import GatherKnobs

from ..tiles import poisoned, tile
from .launching import compile_kernels

VEC = Vec(64, "float32")
PLANE = Plane(32, 32)
ALL = 1 << 16
LARGEST = 65504.0


def copy() -> tirx.PrimFunc:
    """One tile of one channel of `ALL` numbers."""
    return elementwise.elementwise("copy", 1, 1, [PLANE], PLANE, VEC, lambda a: a)


def copied(positions: Collection[int], x: np.ndarray, dtype: str) -> np.ndarray:
    """`ALL` numbers through the copy with these arguments narrow."""
    kernel = compile_kernels({"copy": narrow.narrowed(copy(), positions)})["copy"]
    y = tvm.runtime.tensor(np.zeros((1, PLANE.size, VEC.lanes), dtype))
    kernel(tvm.runtime.tensor(x.reshape(y.shape)), y)
    return y.numpy().ravel()


def test_every_float16_is_read_exactly() -> None:
    bits = np.arange(ALL, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        wanted = bits.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(copied({0}, bits, "float32"), wanted)  # infinities, denormals and NaN among them


def test_every_float16_is_written_as_it_was() -> None:
    bits = np.arange(ALL, dtype=np.uint16)
    found, wanted = copied({0, 1}, bits, narrow.STORED).view(np.float16), bits.view(np.float16)
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(found.view(np.uint16)[numbers], bits[numbers])  # zeros keep their signs
    assert np.isnan(found[~numbers]).all()


def test_numbers_are_rounded_to_the_nearest_float16() -> None:
    rng = np.random.default_rng(0)
    exact = np.arange(ALL // 2 - 1024, dtype=np.uint16).view(np.float16).astype(np.float32)  # 0 .. below infinity
    between = (exact[:-1] + exact[1:]) / 2
    ties = rng.choice(between, 8000)
    near = np.concatenate([np.nextafter(ties, np.float32(s)) for s in (0, np.inf)])
    wide = rng.standard_normal(8000) * 10.0 ** rng.uniform(-12, 12, 8000)
    edges = [LARGEST, LARGEST + 15.9, LARGEST + 16, 1e30, 2.0**-25, 2.0**-24, 1e-40, np.inf, np.nan, 0.0]
    x = np.resize(np.concatenate([ties, near, wide, edges]).astype(np.float32), ALL) * np.where(
        np.arange(ALL) % 2, 1, -1
    )
    x = x.astype(np.float32)
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float16)
    found = copied({1}, x, narrow.STORED).view(np.float16)
    np.testing.assert_array_equal(found, wanted)
    assert np.isinf(wanted).any() and np.isnan(wanted).any()


def halves(x: np.ndarray) -> np.ndarray:
    """Rounded, as a narrow buffer holds them."""
    return x.astype(np.float16).view(np.uint16)


def test_a_convolution_computes_in_float32() -> None:
    """The same bits as the kernel that reads the same numbers as float32, rounded where it writes float16."""
    g = ConvGeometry(
        tiles=2, lanes=8, channels=5, filters=6, kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1),
        groups=1, dtype="float32", x=Plane(4, 5, 1), y=Plane(4, 5, 1), dy=Plane(4, 5, 1), dx=Plane(4, 5, 1),
    )  # fmt: skip
    rng, plain = np.random.default_rng(1), dense_gather.forward(g, 3, GatherKnobs())
    assert narrow.narrowable(plain) >= {0, 2}
    kernels = compile_kernels(
        {"plain": plain, "reads": narrow.narrowed(plain, {0}), "both": narrow.narrowed(plain, {0, 2})}
    )
    x = tile(rng.standard_normal((11, 5, 4, 5)), g.x, Vec(8, "float32")).numpy().astype(np.float16)
    w = tvm.runtime.tensor(rng.standard_normal((6, 5, 3, 3)).astype(np.float32))
    shape = (2, 6 * g.y.size, 8)
    wide, reads = poisoned(shape, "float32"), poisoned(shape, "float32")
    both = tvm.runtime.tensor(halves(np.full(shape, np.nan)))
    kernels["plain"](tvm.runtime.tensor(x.astype(np.float32)), w, wide)
    kernels["reads"](tvm.runtime.tensor(x.view(np.uint16)), w, reads)
    kernels["both"](tvm.runtime.tensor(x.view(np.uint16)), w, both)
    np.testing.assert_array_equal(reads.numpy(), wide.numpy())
    np.testing.assert_array_equal(both.numpy(), halves(wide.numpy()))


def test_statistics_stay_float32() -> None:
    n = Normalisation(11, 3, Vec(8, "float32"), Plane(4, 5), Plane(4, 5, 1), True)
    plain, rng = normalise.forward(n, 0.1, 1e-5), np.random.default_rng(2)
    last = len(plain.params)
    z = last - 3  # X, W, B, RM, RV, Z, MEAN, RSTD
    kernels = compile_kernels({"plain": plain, "narrow": narrow.narrowed(plain, {0, z})})
    x = tile(rng.standard_normal((11, 3, 4, 5)) * 5 + 300, n.x, n.vec).numpy().astype(np.float16)
    results = []
    for name, source, kind in (("plain", x.astype(np.float32), "float32"), ("narrow", x.view(np.uint16), "uint16")):
        vectors = [tvm.runtime.tensor(np.ones(3, np.float32)) for _ in range(4)]
        out = tvm.runtime.tensor(np.zeros((2, 3 * n.z.size, 8), kind))
        sums = [poisoned((3,), "float32") for _ in range(2)]
        kernels[name](tvm.runtime.tensor(source), *vectors, out, *sums)
        results.append([out.numpy(), *(v.numpy() for v in (*vectors, *sums))])
    (wide, *wanted), (half, *found) = results
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(half, halves(wide))


def test_only_what_is_read_by_quads_can_be_narrow() -> None:
    into = elementwise.tile_in(5, 3, Plane(4, 5, 1), VEC)
    assert narrow.narrowable(into) == {1}  # images are read number by number
    assert narrow.narrowable(elementwise.plane_mean(5, 3, PLANE, VEC)) == {0}
    assert not narrow.narrowable(elementwise.tile_in(5, 3, PLANE, Vec(8, "float64")))
    again = narrow.narrowed(into, {1})
    assert not narrow.narrowable(again)
    assert [str(p.ty.dtype) for p in (*into.params, *again.params)] == ["float32"] * 3 + [narrow.STORED]
