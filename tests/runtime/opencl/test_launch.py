"""Kernels run with the arguments, grids and types they were written for, and what cannot run says so."""

from itertools import product

import numpy as np
import pytest
import tvm

from mest_compiler.runtime.opencl import memory

from .kernels import (
    built,
    does_not_compile,
    reversed_through_local_memory,
    three_dimensions,
    through_workspace,
    twice_plus_one,
)

DTYPES = ("float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def test_every_dtype(opencl: tvm.runtime.Device) -> None:
    module = built(**{dtype: twice_plus_one(dtype) for dtype in DTYPES})
    for dtype, length in product(DTYPES, (1, 63, 1000)):
        x = np.random.default_rng(0).integers(0, 60, length).astype(dtype)
        y = tvm.runtime.empty((length,), dtype, opencl)
        module[dtype](tvm.runtime.tensor(x, opencl), y)
        assert y.numpy().dtype == dtype
        np.testing.assert_array_equal(y.numpy(), 2 * x + 1)


def test_grids_and_scalars(opencl: tvm.runtime.Device) -> None:
    y = tvm.runtime.empty((8, 9, 8), "float32", opencl)
    built(k=three_dimensions())["k"](y, -7, 0.5, 5 << 32)
    z, row, x = np.meshgrid(range(8), range(9), range(8), indexing="ij")
    np.testing.assert_array_equal(y.numpy(), (z * 100 + row * 10 + x - 7) * 0.5 + 5)


def test_a_work_group_that_is_too_large(opencl: tvm.runtime.Device) -> None:
    most = opencl.max_threads_per_block
    module = built(large=twice_plus_one("float32", items=2 * most))
    x = tvm.runtime.empty((3 * most,), "float32", opencl)
    with pytest.raises(
        RuntimeError,
        match=rf"Kernel 'large_kernel' cannot run on .* in a grid of 2x1x1 work-groups of {2 * most}x1x1 = {2 * most} "
        rf"items: a work-group has at most {most} items there",
    ):
        module["large"](x, x)


def test_a_kernel_that_does_not_compile(opencl: tvm.runtime.Device) -> None:
    x = tvm.runtime.empty((64,), "float32", opencl)
    function = built(wrong=does_not_compile())["wrong"]
    for _ in range(2):  # the failure is not remembered as a kernel
        with pytest.raises(
            RuntimeError, match=r"(?s)Kernel 'wrong_kernel' does not compile for .*log begins:.*no_such_function"
        ):
            function(x, x)


def test_local_memory(opencl: tvm.runtime.Device) -> None:
    x, y = tvm.runtime.tensor(np.arange(64, dtype="float32"), opencl), tvm.runtime.empty((64,), "float32", opencl)
    built(k=reversed_through_local_memory())["k"](x, y)
    np.testing.assert_array_equal(y.numpy(), x.numpy()[::-1])


def test_a_workspace_between_kernels_is_kept(opencl: tvm.runtime.Device) -> None:
    function = built(k=through_workspace())["k"]
    x = np.random.default_rng(0).standard_normal(1024).astype("float32")
    tensor, y = tvm.runtime.tensor(x, opencl), tvm.runtime.empty((1024,), "float32", opencl)
    tvm.get_global_func("mest.opencl.release_workspaces")(0)
    seen = []
    for _ in range(3):
        function(tensor, y)
        np.testing.assert_array_equal(y.numpy(), -(x + 1))
        seen.append((memory()["pooled"], memory()["buffers"]))
    assert seen == seen[:1] * 3 and seen[0][0] == 4096
    tvm.get_global_func("mest.opencl.release_workspaces")(0)
    assert memory()["pooled"] == 0 and memory()["buffers"] == seen[0][1] - 1
