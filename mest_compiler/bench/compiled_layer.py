"""One convolution layer through the kernels that a whole-step compile would choose for it: forward and both gradients.

Activations are in batch tiles before the clock starts, since a whole step converts its input once and not at every
layer.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mest_compiler.bench.batch_tiles import from_tiles, to_tiles
from mest_compiler.bench.child import Contestant
from mest_compiler.bench.inputs import LayerInputs, layer_inputs
from mest_compiler.bench.layer_spec import LayerSpec
from mest_compiler.devices import Device, get_device
from mest_compiler.errors import ProfileError
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.problem import DIRECTIONS, LayerProblem
from mest_compiler.passes.pipeline import probable
from mest_compiler.passes.tiling.layout import BatchTiles
from mest_compiler.schedules.candidates import candidates
from mest_compiler.schedules.choice import Choice
from mest_compiler.sparsity import structure as structures
from mest_compiler.sparsity.automatic import Automatic
from mest_compiler.sparsity.structure import Structure
from mest_compiler.tuning.fastest import Fastest
from mest_compiler.tuning.layer_run import Operands, interleaved_ms, kernel_call
from mest_compiler.tuning.schemes import fastest_schemes

PROFILED = 5
"""Repeats behind each kernel's own time."""


def contestants(
    layer: LayerSpec,
    *,
    batch: int,
    seed: int,
    scheme: str,
    sparsity: float,
    threads: int,
    uneven: bool = False,
    device: str = "cpu",
) -> list[Contestant]:
    """`sparse`, `unordered` and `dense`; arguments as for `inputs.layer_inputs`."""
    arguments = {
        "layer": str(layer), "batch": batch, "seed": seed, "scheme": scheme, "sparsity": sparsity, "threads": threads,
        "uneven": uneven, "device": device,
    }  # fmt: skip
    return [
        Contestant(factory.__name__, f"{__name__}:{factory.__name__}", arguments, threads)
        for factory in (sparse, unordered, dense)
    ]


def sparse(*, scheme: str, threads: int, layer: str, batch: int, device: str = "cpu", **case: Any) -> CompiledLayer:
    """The layer on compact values of the scheme."""
    inputs = layer_inputs(LayerSpec.parse(layer), batch=batch, scheme=scheme, **case)
    return CompiledLayer(
        get_device(device, threads),
        layer,
        batch,
        inputs,
        structures.build(inputs.mask, scheme, parts=get_device(device, threads).threads),
    )


def unordered(*, scheme: str, threads: int, layer: str, batch: int, device: str = "cpu", **case: Any) -> CompiledLayer:
    """The same with the rows of its structure as they come, not dealt out by their work."""
    inputs = layer_inputs(LayerSpec.parse(layer), batch=batch, scheme=scheme, **case)
    return CompiledLayer(
        get_device(device, threads), layer, batch, inputs, structures.build(inputs.mask, scheme, parts=None)
    )


def dense(*, threads: int, layer: str, batch: int, device: str = "cpu", **case: Any) -> CompiledLayer:
    """The layer on the whole weight, its zeros included."""
    return CompiledLayer(
        get_device(device, threads), layer, batch, layer_inputs(LayerSpec.parse(layer), batch=batch, **case), None
    )


def geometry_of(layer: LayerSpec, batch: int, device: Device) -> ConvGeometry:
    """The layer's geometry with the borders that its kernels need, as the tiling pass gives it in a network."""
    x, y = (batch, layer.channels, layer.height, layer.width), (batch, layer.filters, *layer.out_plane)
    make = partial(
        BatchTiles(device.lanes("float32")).geometry, x, y, layer.weight_shape, "float32",
        stride=(layer.stride, layer.stride), padding=(layer.padding, layer.padding),
    )  # fmt: skip
    bare = make()
    return make(x_border=bare.needed_x_border, dy_border=bare.needed_dy_border)


def fastest_scheme(layer: LayerSpec, *, batch: int, sparsity: float, threads: int, device: str = "cpu") -> str:
    """Name of the fine-grained scheme that is the fastest on this layer at a ratio, measured."""
    its = get_device(device, threads)
    g = geometry_of(layer, batch, its)
    found = fastest_schemes(Automatic(sparsity), {"": g}, Fastest(its), first_dense=False).layers
    if not found:
        raise ProfileError(f"A sparsity of {sparsity:g} keeps all or nothing of {layer}: choose another one.")
    (plan,) = found.values()
    return plan.scheme


class CompiledLayer:
    """Three kernels and their arguments; the weights are a structure's values, or dense where there is none."""

    def __init__(
        self, device: Device, layer: str, batch: int, inputs: LayerInputs, structure: Structure | None
    ) -> None:
        self.spec, self.batch, self.structure = LayerSpec.parse(layer), batch, structure
        self.device = device
        self.geometry = g = geometry_of(self.spec, batch, self.device)
        weight = inputs.weight if structure is None else structure.compact(inputs.weight)
        tiles = to_tiles(inputs.x, g.lanes, g.x.border), to_tiles(inputs.dy, g.lanes, g.dy.border)
        self.operands = Operands.of(self.device, g, *tiles, weight)
        problem = LayerProblem(g, None if structure is None else structure.spec)
        # A dense layer has one kernel, and nothing is looked up for it: it is what the sparse one is compared with.
        pick = probable if structure is None else Fastest(self.device)
        self.choices: dict[str, Choice] = {d: pick(d, problem, candidates(d, self.device, problem)) for d in DIRECTIONS}
        self._calls = [
            kernel_call(d, choice, self.device, problem, self.operands, structure) for d, choice in self.choices.items()
        ]

    def run(self) -> None:
        """One forward and both gradients, to their end."""
        for call in self._calls:
            call()
        self.operands.place.sync()

    def outputs(self, path: Path) -> None:
        """Save y, dx and dw, float32 in NCHW, as .npz; dw is zero at removed weights."""
        self.run()
        g, o = self.geometry, self.operands
        dw = o.dw.numpy()
        np.savez(
            path,
            y=from_tiles(o.y.numpy(), self.batch, g.filters, g.y),
            dx=from_tiles(o.dx.numpy(), self.batch, g.channels, g.dx),
            dw=dw if self.structure is None else self.structure.expand(dw),
        )

    def result(self) -> dict[str, Any]:
        """The kernels by direction, and the median time of each alone, in ms."""
        described = {direction: choice.describe() for direction, choice in self.choices.items()}
        measured = interleaved_ms(self._calls, PROFILED, self.operands.place.sync)
        times = {
            f"{direction} {choice.kernel}": {"ms": median(some), "calls": 1}
            for (direction, choice), some in zip(self.choices.items(), measured, strict=True)
        }
        return {"kernels": {str(self.spec): described}, "kernel_ms": times}
