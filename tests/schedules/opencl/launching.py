"""Kernels on this machine's OpenCL device, called with arrays of the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tvm
from tvm import tirx

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.runtime.opencl import load

PHONE = OpenClProfile("a phone", work_group=1024, local_bytes=32768)


def compile_kernels(functions: Mapping[str, tirx.PrimFunc]) -> dict[str, Callable[..., None]]:
    """Kernels by name. Arguments are tensors of the host, copied to the device and, changed or not, back again."""
    load()
    device = tvm.opencl(0)
    names = {f"kernel_{i}": name for i, name in enumerate(functions)}
    module = {symbol: functions[name].with_attr("global_symbol", symbol) for symbol, name in names.items()}
    machine = tvm.tirx.build(tvm.IRModule(module), target=PHONE.target, pipeline="s_tir")

    def launcher(symbol: str) -> Callable[..., None]:
        def launch(*arguments: tvm.runtime.Tensor) -> None:
            there = [tvm.runtime.tensor(a.numpy(), device) for a in arguments]
            machine[symbol](*there)
            for here, result in zip(arguments, there, strict=True):
                here.copyfrom(result.numpy())

        return launch

    return {name: launcher(symbol) for symbol, name in names.items()}
