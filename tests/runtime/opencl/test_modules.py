"""Compiled libraries, Relax programs, event times and several threads on the OpenCL device."""

import threading
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from mest_compiler.runtime.opencl import memory, profile

from .kernels import TARGET, built, through_workspace, twice_plus_one

SHAPE = (1024,)
PASSES = tvm.transform.Sequential(  # what a program of kernels alone needs
    [
        relax.transform.ToNonDataflow(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]
)


def test_an_exported_library_is_loaded_again(opencl: tvm.runtime.Device, tmp_path: Path) -> None:
    made = built(a=twice_plus_one("float32"), b=through_workspace())
    made.export_library(tmp_path / "made.so")
    loaded = tvm.runtime.load_module(tmp_path / "made.so")
    assert "__kernel void a_kernel" in loaded.imports[0].inspect_source()
    x = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    for module in (made, loaded):
        y = tvm.runtime.empty(SHAPE, "float32", opencl)
        module["a"](tvm.runtime.tensor(x, opencl), y)
        np.testing.assert_array_equal(y.numpy(), 2 * x + 1)
        module["b"](y, y)
        np.testing.assert_array_equal(y.numpy(), -(2 * x + 1 + 1))


@pytest.mark.parametrize("damaged", [b"", b"\x02" + bytes(7) + b"c", b"\xff" * 64])
def test_a_damaged_library_is_a_sentence(opencl: tvm.runtime.Device, damaged: bytes) -> None:
    with pytest.raises(RuntimeError, match="OpenCL part of a compiled library is cut off"):
        tvm.get_global_func("ffi.Module.load_from_bytes.opencl")(damaged)


def program() -> tvm.IRModule:
    """y = f(f(x)) with f(x) = 2 x + 1: two kernels, and a tensor between them that the program makes."""
    builder = relax.BlockBuilder()
    kind = relax.TensorType(SHAPE, "float32")
    x = relax.Var("x", kind)
    with builder.function("main", [x]):
        kernel = builder.add_func(twice_plus_one("float32"), "twice_plus_one")
        with builder.dataflow():
            between = builder.emit(relax.call_tir(kernel, [x], kind))
            y = builder.emit_output(relax.call_tir(kernel, [between], kind))
        builder.emit_func_output(y)
    return builder.get()


def test_a_relax_program(opencl: tvm.runtime.Device) -> None:
    executable = relax.build(program(), tvm.target.Target(TARGET), relax_pipeline=PASSES, tir_pipeline="s_tir")
    machine = relax.VirtualMachine(executable, opencl)
    x = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    for _ in range(3):
        y = machine["main"](tvm.runtime.tensor(x, opencl))
        assert y.device == opencl
        np.testing.assert_array_equal(y.numpy(), 2 * (2 * x + 1) + 1)


def test_time_evaluator_adds_up_events(opencl: tvm.runtime.Device) -> None:
    module = built(k=twice_plus_one("float32"))
    x = tvm.runtime.empty((1 << 16,), "float32", opencl)
    y = tvm.runtime.empty((1 << 16,), "float32", opencl)
    with profile() as times:
        result = module.time_evaluator("k", opencl, number=20, repeat=5)(x, y)
    kernel = times["commands"]["k_kernel"]
    assert kernel["count"] == 1 + 5 * 20  # the first one is not timed
    timed = sum(result.results) * 20 * 1e3
    assert 0 < timed < kernel["ms"] * 1.001  # the same events


def test_a_profile_is_by_kernel_and_copy(opencl: tvm.runtime.Device) -> None:
    module = built(a=twice_plus_one("float32"), b=twice_plus_one("float64"))
    with profile() as times:
        for dtype, name, launches in (("float32", "a", 300), ("float64", "b", 7)):
            x = tvm.runtime.tensor(np.ones(100, dtype), opencl)
            for _ in range(launches):
                module[name](x, x)
    counts = {name: command["count"] for name, command in times["commands"].items()}
    assert counts == {"a_kernel": 300, "b_kernel": 7, "copy to the device": 2}
    assert times["count"] == 309
    assert times["ms"] == pytest.approx(sum(command["ms"] for command in times["commands"].values()))
    assert times["span_ms"] > 0


def test_a_profile_that_nobody_started(opencl: tvm.runtime.Device) -> None:
    with pytest.raises(RuntimeError, match=r"No profile runs on opencl\(0\): start one first"):
        tvm.get_global_func("mest.opencl.profile_stop")(0)


def test_threads_share_a_device(opencl: tvm.runtime.Device) -> None:
    module = built(a=twice_plus_one("float32"), b=through_workspace())
    before, wrong = memory()["buffers"], []

    def hammer(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(40):
                x = rng.standard_normal(1024).astype("float32")
                tensor, y = tvm.runtime.tensor(x, opencl), tvm.runtime.empty(SHAPE, "float32", opencl)
                module["b"](tensor, y)
                module["a"](y, tensor)
                np.testing.assert_array_equal(tensor.numpy(), -2 * (x + 1) + 1)
        except BaseException as error:
            wrong.append(error)

    def time_them() -> None:
        timed = tvm.runtime.tensor(np.zeros(SHAPE, "float32"), opencl)
        for _ in range(20):
            with profile():
                module.time_evaluator("a", opencl, number=3)(timed, timed)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    threads.append(threading.Thread(target=time_them))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    tvm.get_global_func("mest.opencl.release_workspaces")(0)
    assert memory()["buffers"] <= before
