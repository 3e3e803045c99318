"""Kernels that add up gradients on OpenCL against NumPy: dense and compact, tails of quads, the first part."""

import numpy as np
import pytest
import tvm

from mest_compiler.schedules.in_place import Numbers
from mest_compiler.schedules.opencl import accumulate
from mest_compiler.schedules.opencl.emit import Vec
from mest_compiler.schedules.opencl.planes import GROUP

from ..tiles import TOLERANCE
from .launching import compile_kernels

PARTS = 3


def flag(first: bool) -> tvm.runtime.Tensor:
    """The argument that says whether a part is the first."""
    return tvm.runtime.tensor(np.asarray(first, np.int32))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dense(dtype: str) -> None:
    vec, shapes = Vec(64, dtype), ((), (64,), (4 * GROUP + 5,))
    kernels = compile_kernels({s: accumulate.accumulate(Numbers(s), vec, 1) for s in shapes})
    rng = np.random.default_rng(0)
    for shape, kernel in kernels.items():
        found = tvm.runtime.tensor(np.full(shape, np.nan, dtype))  # the first part may read nothing
        for step in range(2):
            gradients = rng.standard_normal((PARTS, *shape)).astype(dtype)
            for part, g in enumerate(gradients):
                kernel(found, tvm.runtime.tensor(g), flag(part == 0))
            what = f"shape {shape}, step {step}"
            wanted, tolerance = gradients.astype(np.float64).sum(0), TOLERANCE[dtype]
            np.testing.assert_allclose(found.numpy(), wanted, rtol=tolerance, atol=tolerance, err_msg=what)


@pytest.mark.parametrize(("unit_size", "dtype"), [(1, "int32"), (4, "uint16"), (27, "int32")])
@pytest.mark.parametrize("capacity", [13, 2 * GROUP])
def test_compact_adds_to_what_is_filled_and_nothing_else(capacity: int, unit_size: int, dtype: str) -> None:
    vec, rng = Vec(64, "float32"), np.random.default_rng(0)
    kernel = compile_kernels({"": accumulate.accumulate(Numbers((capacity, unit_size), dtype), vec, 1)})[""]
    for entries in sorted({0, 1, capacity // 2, capacity - 1, capacity}):
        found = tvm.runtime.tensor(np.full((capacity, unit_size), np.nan, "float32"))
        filled = tvm.runtime.tensor(np.array([entries], dtype))
        gradients = rng.standard_normal((PARTS, capacity, unit_size)).astype("float32")
        for part, g in enumerate(gradients):
            kernel(found, tvm.runtime.tensor(g), flag(part == 0), filled)
        wanted = gradients[:, :entries].sum(0)
        np.testing.assert_allclose(found.numpy()[:entries], wanted, rtol=1e-5, atol=1e-5)
        assert np.isnan(found.numpy()[entries:]).all()
