"""The kernels of one sparse (or dense) convolution with their arguments on this machine, ready to be timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm

from mest_compiler.devices import Device
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.index_arrays import forms_of, index_arrays
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.passes.check_limits import check_limits
from mest_compiler.runtime.local_device import local_device
from mest_compiler.schedules.choice import Choice
from mest_compiler.sparsity.structure import Structure

Tensor = tvm.runtime.Tensor


@dataclass
class Operands:
    """Device tensors of a layer: x, dy in batch tiles, the weight or its values, and room for y, dx, dw."""

    place: tvm.runtime.Device
    x: Tensor
    dy: Tensor
    weight: Tensor
    y: Tensor
    dx: Tensor
    dw: Tensor

    @classmethod
    def of(cls, device: Device, g: ConvGeometry, x: np.ndarray, dy: np.ndarray, weight: np.ndarray) -> Operands:
        """Room is made as the geometry says; `weight` dense [F, C, kh, kw] or values [capacity, unit_size]."""
        place = local_device(device)
        empty = lambda *shape: tvm.runtime.tensor(np.zeros(shape, g.dtype), place)  # noqa: E731
        y, dx = empty(g.tiles, g.filters * g.y.size, g.lanes), empty(g.tiles, g.channels * g.dx.size, g.lanes)
        tensors = (tvm.runtime.tensor(np.ascontiguousarray(a), place) for a in (x, dy, weight))
        return cls(place, *tensors, y, dx, empty(*weight.shape))


def kernel_call(
    direction: str,
    choice: Choice,
    device: Device,
    layer: LayerProblem,
    operands: Operands,
    structure: Structure | None = None,
) -> Callable[[], None]:
    """Builds a choice's kernel (with what puts zeros back and takes them out, where it needs that) and binds it.

    Args:
        structure: of a sparse layer.
    """
    g, o = layer.geometry, operands
    indices: list[Tensor] = []
    if structure is not None:
        arrays = index_arrays(structure, layer, {direction: choice.used})
        indices = [tvm.runtime.tensor(arrays[name], o.place) for name in forms_of(layer, direction, choice.used)]
    kernel, *beside = (built(function, device)["main"] for function in functions(choice))
    zero = lambda *shape: tvm.runtime.tensor(np.zeros(shape, g.dtype), o.place)  # noqa: E731
    sums = [] if choice.workspace is None else [zero(*choice.workspace)]
    if choice.beside is not None:
        dense = zero(*g.weight_shape)
        if direction == "backward_weight":
            (back,) = beside
            return lambda: (kernel(o.x, o.dy, dense, *sums), back(dense, *indices, o.dw))
        (put,) = beside
        source, target = (o.x, o.y) if direction == "forward" else (o.dy, o.dx)
        return lambda: (put(o.weight, *indices, dense), kernel(source, dense, target))
    if direction == "backward_weight":
        return lambda: kernel(o.x, o.dy, *indices, o.dw, *sums)
    source, target = (o.x, o.y) if direction == "forward" else (o.dy, o.dx)
    return lambda: kernel(source, o.weight, *indices, target)


def functions(choice: Choice) -> list[tvm.tirx.PrimFunc]:
    """A choice's kernel and, where it is dense and its layer is not, what puts zeros back or takes them out."""
    return [choice.make(), *([] if choice.beside is None else [choice.beside()])]


def built(function: tvm.tirx.PrimFunc, device: Device) -> tvm.runtime.Executable:
    """Machine code of one kernel, whose name there is "main".

    Raises:
        DeviceError: it is beyond the limits of the device.
    """
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    check_limits(module, device)
    with tvm.transform.PassContext(disabled_pass=list(device.needless_passes)):
        return tvm.tirx.build(module, target=device.target, pipeline=device.pipeline)


def interleaved_ms(
    calls: list[Callable[[], None]], rounds: int, sync: Callable[[], None] = lambda: None
) -> list[list[float]]:
    """Times of each call in ms, taken in turns so that a disturbance meets all alike; `sync` waits for a call's end."""
    for call in calls:
        call()
    sync()
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for times, call in zip(found, calls, strict=True):
            start = time.perf_counter()
            call()
            sync()
            times.append(1e3 * (time.perf_counter() - start))
    return found
