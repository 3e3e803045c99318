"""Copies reach the bytes they are meant for, the counter of memory is right, and too much is a sentence."""

import gc

import numpy as np
import pytest
import tvm

from mest_compiler.runtime.opencl import devices, memory


def test_copies_with_offsets(opencl: tvm.runtime.Device) -> None:
    x = np.arange(100, dtype="float32")
    whole = tvm.runtime.tensor(x, opencl)
    part = whole._create_view((10,), "float32", 40)  # from a byte on
    np.testing.assert_array_equal(part.numpy(), x[10:20])

    part.copyfrom(-np.arange(10, dtype="float32"))
    x[10:20] = -np.arange(10)
    np.testing.assert_array_equal(whole.numpy(), x)

    other = tvm.runtime.tensor(np.zeros(30, "float32"), opencl)
    part.copyto(other._create_view((10,), "float32", 80))  # on the device, from an offset to an offset
    expected = np.zeros(30, "float32")
    expected[20:] = x[10:20]
    np.testing.assert_array_equal(other.numpy(), expected)


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint16", "uint32", "bool"])
def test_copies_keep_bits(opencl: tvm.runtime.Device, dtype: str) -> None:
    x = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 60000, (3, 5, 7)).astype(dtype)
    tensor = tvm.runtime.tensor(x, opencl)
    np.testing.assert_array_equal(tensor.numpy(), x)
    np.testing.assert_array_equal(tensor.copyto(opencl).numpy(), x)
    np.testing.assert_array_equal(tensor.copyto(tvm.cpu()).numpy(), x)


def test_empty_tensors(opencl: tvm.runtime.Device) -> None:
    tensor = tvm.runtime.tensor(np.zeros((0, 4), "float32"), opencl)
    assert tensor.numpy().shape == (0, 4)
    assert tensor.copyto(opencl).numpy().shape == (0, 4)


def test_memory_is_counted_and_given_back(opencl: tvm.runtime.Device) -> None:
    gc.collect()
    before = memory()
    tvm.get_global_func("mest.opencl.memory_reset_peak")(0)
    tensors = [tvm.runtime.empty((count,), "float64", opencl) for count in (1000, 0, 17)]
    assert memory()["now"] == before["now"] + 8 * 1017
    assert memory()["buffers"] == before["buffers"] + 3
    del tensors[0]
    assert memory()["now"] == before["now"] + 8 * 17
    assert memory()["peak"] == before["now"] + 8 * 1017
    tensors.clear()
    assert memory()["now"] == before["now"] and memory()["buffers"] == before["buffers"]


def test_out_of_memory_is_a_sentence(opencl: tvm.runtime.Device) -> None:
    tvm.get_global_func("mest.opencl.release_workspaces")(0)  # of other tests: it is tried again without them
    before = memory()
    with pytest.raises(
        RuntimeError, match=r"is out of memory: a buffer of \d+ MiB was asked for .*; take a smaller batch"
    ):
        tvm.runtime.empty((1 << 44,), "float32", opencl)
    assert memory()["now"] == before["now"]


def test_what_tvm_asks_of_a_device(opencl: tvm.runtime.Device) -> None:
    known = next(d for d in devices() if d["name"] == opencl.device_name)
    assert opencl.exist and not tvm.opencl(len(devices())).exist
    assert opencl.max_threads_per_block == known["max_work_group"]
    assert opencl.max_shared_memory_per_block == known["local_bytes"]
    assert opencl.total_global_memory == known["global_bytes"]
    assert opencl.multi_processor_count == known["compute_units"]
    assert len(opencl.max_thread_dimensions) == 3 and opencl.warp_size == 1
    for kind in range(17):
        for device in (0, 99):
            tvm.get_global_func("runtime.GetDeviceAttr")(int(opencl.dlpack_device_type()), device, kind)
    with pytest.raises(RuntimeError, match=r"no device opencl\(99\): OpenCL has \d+ here"):
        tvm.runtime.empty((1,), "float32", tvm.opencl(99))
