"""Batch tiles for tests, written out in NumPy; machine code of many kernels at once; and how close results must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tvm
from tvm import tirx

from mest_compiler.devices import CpuProfile, local_cpu
from mest_compiler.kernels.geometry import Plane
from mest_compiler.schedules.cpu.emit import Vec

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
NARROW, WIDE = 256, 512  # bits of a vector: AVX2-like and AVX-512-like; LLVM splits what the machine lacks


def profile(bits: int, threads: int = 1) -> CpuProfile:
    """This machine's CPU, taken for one with vectors of so many bits."""
    return CpuProfile(local_cpu().mcpu, bits, 32 if bits == WIDE else 16, threads)


def vector(bits: int, dtype: str) -> Vec:
    """Vectors of a machine with so many bits."""
    return Vec(profile(bits).lanes(dtype), dtype)


def compile_kernels(functions: Mapping[str, tirx.PrimFunc], opt_level: int = 0) -> dict[str, Callable]:
    """Machine code of kernels by name; unoptimised is several times faster to compile and computes the same."""
    target = tvm.target.Target({**local_cpu().llvm, "opt-level": opt_level})
    names = {f"kernel_{i}": name for i, name in enumerate(functions)}
    module = {symbol: functions[name].with_attr("global_symbol", symbol) for symbol, name in names.items()}
    with tvm.transform.PassContext(disabled_pass=list(local_cpu().needless_passes)):
        machine = tvm.tirx.build(tvm.IRModule(module), target=target)
    return {name: machine[symbol] for symbol, name in names.items()}


def tile(a: np.ndarray, plane: Plane, vec: Vec, padding: float = 0.0) -> tvm.runtime.Tensor:
    """[N, C, H, W] -> batch tiles [tiles, C * rows * cols, L]: border zero, lanes past the batch hold `padding`."""
    n, c, h, w = a.shape
    tiles, b = -(-n // vec.lanes), plane.border
    assert (h, w) == (plane.height, plane.width)
    out = np.zeros((tiles * vec.lanes, c, plane.rows, plane.cols), vec.dtype)
    out[n:, :, b : b + h, b : b + w] = padding
    out[:n, :, b : b + h, b : b + w] = a
    out = out.reshape(tiles, vec.lanes, c, plane.rows, plane.cols).transpose(0, 2, 3, 4, 1)
    return tvm.runtime.tensor(np.ascontiguousarray(out.reshape(tiles, c * plane.size, vec.lanes)))


def bordered(a: tvm.runtime.Tensor, channels: int, plane: Plane) -> np.ndarray:
    """Batch tiles -> [tiles * L, C, rows, cols]: border and lanes past the batch included."""
    a = a.numpy()
    tiles, _, lanes = a.shape
    a = a.reshape(tiles, channels, plane.rows, plane.cols, lanes).transpose(0, 4, 1, 2, 3)
    return a.reshape(tiles * lanes, channels, plane.rows, plane.cols)


def untile(a: tvm.runtime.Tensor, batch: int, channels: int, plane: Plane) -> np.ndarray:
    """Batch tiles -> [N, C, H, W]."""
    b = plane.border
    return bordered(a, channels, plane)[:batch, :, b : b + plane.height, b : b + plane.width]


def border_of(a: tvm.runtime.Tensor, channels: int, plane: Plane) -> np.ndarray:
    """All numbers of the border, lanes past the batch included."""
    inside = np.zeros((plane.rows, plane.cols), bool)
    inside[plane.border : plane.border + plane.height, plane.border : plane.border + plane.width] = True
    return bordered(a, channels, plane)[:, :, ~inside]


def poisoned(shape: tuple[int, ...], dtype: str) -> tvm.runtime.Tensor:
    """What memory may hold before a kernel runs: NaN, or a number that is no index."""
    value = np.nan if dtype.startswith("float") else 123456789
    return tvm.runtime.tensor(np.full(shape, value, dtype))
