"""One convolution layer through the kernels that a whole-step compile would choose for it: forward and both gradients.

Activations are in batch tiles before the clock starts, since a whole step converts its input once and not at every
layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tvm

from mest_compiler.bench.batch_tiles import from_tiles, to_tiles
from mest_compiler.bench.child import Contestant
from mest_compiler.bench.inputs import LayerInputs, layer_inputs
from mest_compiler.bench.layer_spec import LayerSpec
from mest_compiler.devices import CpuProfile, local_cpu
from mest_compiler.kernels.arguments import ARGUMENTS, Groups, index_arrays
from mest_compiler.kernels.geometry import ConvGeometry, Plane
from mest_compiler.schedules.cpu.choose import CHOOSE, Choice
from mest_compiler.sparsity import structure as structures
from mest_compiler.sparsity.schemes import get_scheme

PROFILED = 5
"""Repeats behind each kernel's own time."""
ONE_THREAD_A_CORE = 1
"""TVM's affinity mode "big": workers stay on the fastest cores."""


def contestants(
    layer: LayerSpec, *, batch: int, seed: int, scheme: str, sparsity: float, threads: int
) -> list[Contestant]:
    """`sparse` and `dense`; arguments as for `inputs.layer_inputs`."""
    arguments = {
        "layer": str(layer),
        "batch": batch,
        "seed": seed,
        "scheme": scheme,
        "sparsity": sparsity,
        "threads": threads,
    }
    return [
        Contestant(factory.__name__, f"{__name__}:{factory.__name__}", arguments, threads)
        for factory in (sparse, dense)
    ]


def sparse(*, scheme: str, threads: int, **case: Any) -> CompiledLayer:
    """The layer on compact values of the scheme."""
    return SparseLayer(scheme, threads, scheme=scheme, **case)


def dense(*, threads: int, **case: Any) -> CompiledLayer:
    """The layer on the whole weight, its zeros included."""
    return DenseLayer(threads, **case)


def geometry_of(layer: LayerSpec, batch: int, device: CpuProfile) -> ConvGeometry:
    """The layer's geometry with the borders that its kernels need, as the tiling pass gives it in a network."""
    lanes = device.lanes("float32")
    inside, outside = Plane(layer.height, layer.width), Plane(*layer.out_plane)
    bare = ConvGeometry(
        tiles=-(-batch // lanes), lanes=lanes, channels=layer.channels, filters=layer.filters,
        kernel=(layer.kernel, layer.kernel), stride=(layer.stride, layer.stride),
        padding=(layer.padding, layer.padding), dilation=(1, 1), x=inside, y=outside, dy=outside, dx=inside,
    )  # fmt: skip
    return replace(
        bare, x=replace(inside, border=bare.needed_x_border), dy=replace(outside, border=bare.needed_dy_border)
    )


class CompiledLayer:
    """Three kernels and their arguments; a subclass says what the weights are."""

    def __init__(
        self, threads: int, layer: str, batch: int, block: int | None, entries: int, inputs: LayerInputs
    ) -> None:
        self.spec, self.batch, self.inputs = LayerSpec.parse(layer), batch, inputs
        tvm.get_global_func("runtime.config_threadpool")(ONE_THREAD_A_CORE, threads)
        self.device = local_cpu(threads)
        self.geometry = g = geometry_of(self.spec, batch, self.device)
        self.choices: dict[str, Choice] = {
            direction: pick(self.device, g, block, entries) for direction, pick in CHOOSE.items()
        }
        self._kernels = {direction: self._built(choice) for direction, choice in self.choices.items()}
        self.x = tvm.runtime.tensor(to_tiles(inputs.x, g.lanes, g.x.border))
        self.dy = tvm.runtime.tensor(to_tiles(inputs.dy, g.lanes, g.dy.border))
        self.y = _zeros(g.tiles, g.filters * g.y.size, g.lanes)
        self.dx = _zeros(g.tiles, g.channels * g.dx.size, g.lanes)

    def _bind(self, weight: np.ndarray, indices: dict[str, tvm.runtime.Tensor]) -> None:
        """Fix every kernel's arguments."""
        w = tvm.runtime.tensor(np.ascontiguousarray(weight))
        self.dw, sums = _zeros(*weight.shape), _zeros(prod(weight.shape), self.geometry.lanes)
        ends = {
            "forward": ([self.x, w], [self.y]),
            "backward_data": ([self.dy, w], [self.dx]),
            "backward_weight": ([self.x, self.dy], [self.dw, sums]),
        }
        self._calls = []
        for direction, (before, after) in ends.items():
            between = [indices[name] for name in ARGUMENTS[direction]] if indices else []
            self._calls.append((self._kernels[direction], (*before, *between, *after)))

    def _built(self, choice: Choice) -> Callable[..., None]:
        function = choice.make().with_attr("global_symbol", "main")
        return tvm.tirx.build(tvm.IRModule({"main": function}), target=self.device.target)["main"]

    def dense_gradient(self, dw: np.ndarray) -> np.ndarray:
        """The weight's gradient [F, C, kh, kw] of what the kernel gave."""
        raise NotImplementedError

    def run(self) -> None:
        """One forward and both gradients."""
        for kernel, arguments in self._calls:
            kernel(*arguments)

    def outputs(self, path: Path) -> None:
        """Save y, dx and dw, float32 in NCHW, as .npz; dw is zero at removed weights."""
        self.run()
        g = self.geometry
        np.savez(
            path,
            y=from_tiles(self.y.numpy(), self.batch, g.filters, g.y),
            dx=from_tiles(self.dx.numpy(), self.batch, g.channels, g.dx),
            dw=self.dense_gradient(self.dw.numpy()),
        )

    def result(self) -> dict[str, Any]:
        """The kernels by direction, and the median time of each alone, in ms."""
        described = {direction: choice.describe() for direction, choice in self.choices.items()}
        times = {
            f"{direction} {self.choices[direction].kernel}": {"ms": _median_ms(kernel, arguments), "calls": 1}
            for direction, (kernel, arguments) in zip(self.choices, self._calls, strict=True)
        }
        return {"kernels": {str(self.spec): described}, "kernel_ms": times}


class SparseLayer(CompiledLayer):
    """Weights are the compact values of a mask's structure."""

    def __init__(self, kind: str, threads: int, layer: str, batch: int, **case: Any) -> None:
        inputs = layer_inputs(LayerSpec.parse(layer), batch=batch, **case)
        self.structure = structures.build(inputs.mask, kind, parts=threads)
        super().__init__(threads, layer, batch, get_scheme(kind).block, self.structure.capacity, inputs)
        groups = Groups(**{direction: choice.groups for direction, choice in self.choices.items()})
        arrays = index_arrays(self.structure, self.geometry, groups)
        indices = {name: tvm.runtime.tensor(np.ascontiguousarray(array)) for name, array in arrays.items()}
        self._bind(self.structure.compact(inputs.weight), indices)

    def dense_gradient(self, dw: np.ndarray) -> np.ndarray:
        """See the base class; zero at removed weights."""
        return self.structure.expand(dw)


class DenseLayer(CompiledLayer):
    """Weights are the whole tensor."""

    def __init__(self, threads: int, layer: str, batch: int, **case: Any) -> None:
        inputs = layer_inputs(LayerSpec.parse(layer), batch=batch, **case)
        super().__init__(threads, layer, batch, None, 0, inputs)
        self._bind(inputs.weight, {})

    def dense_gradient(self, dw: np.ndarray) -> np.ndarray:
        """See the base class."""
        return dw


def _zeros(*shape: int) -> tvm.runtime.Tensor:
    return tvm.runtime.tensor(np.zeros(shape, np.float32))


def _median_ms(kernel: Callable[..., None], arguments: tuple[Any, ...]) -> float:
    times = []
    for _ in range(PROFILED):
        start = time.perf_counter()
        kernel(*arguments)
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)
