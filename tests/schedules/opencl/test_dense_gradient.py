"""Dense, grouped and depthwise weight gradients on OpenCL against float64 ones, over layers, knobs and lanes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mest_compiler.schedules.opencl import dense_gradient
from mest_compiler.schedules.opencl.emit import Vec

from ..convolutions import Conv, Data
from ..test_dense_convolution import LAYERS
from .gradients import BLOCKS, KNOBS, PHONE, VECTORS, Gradient, dense_gradient_of, run_dense
from .launching import compile_kernels


def check(conv: Conv, vec: Vec, made: list[Gradient]) -> None:
    """Kernels of one layer."""
    data = Data.make(conv, vec)
    kernels = compile_kernels({str(i): gradient.make() for i, gradient in enumerate(made)})
    for i, gradient in enumerate(made):
        run_dense(str(gradient), gradient, kernels[str(i)], data)


def fitting(name: str, vec: Vec) -> Conv:
    """A layer with more than one batch tile and an odd batch."""
    conv = LAYERS[name]
    return replace(conv, batch=conv.batch + vec.lanes) if vec.lanes > 16 else conv


@pytest.mark.parametrize(
    "name",
    [name if i % 4 == 3 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(LAYERS)],
)
def test_layer(name: str) -> None:
    number = list(LAYERS).index(name)
    vec = VECTORS[number % len(VECTORS)]
    conv = fitting(name, vec)
    check(conv, vec, [dense_gradient_of(conv.geometry(vec), BLOCKS[number % 3], KNOBS[(number + number // 4) % 4])])


@pytest.mark.slow
@pytest.mark.parametrize("vec", VECTORS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_with_every_knob(name: str, vec: Vec) -> None:
    conv = fitting(name, vec)
    g = conv.geometry(vec)
    made = [dense_gradient_of(g, block, knobs) for block in BLOCKS for knobs in KNOBS]
    made.append(dense_gradient_of(g, dense_gradient.default_block(g), dense_gradient.default_knobs(PHONE, g)))
    check(conv, vec, made)


def test_twice_the_same_bits() -> None:
    vec = VECTORS[0]
    conv = fitting("3x3, odd plane", vec)
    gradient, data = dense_gradient_of(conv.geometry(vec), 4, KNOBS[2]), Data.make(conv, vec)
    kernel = compile_kernels({"": gradient.make()})[""]
    first, second = (run_dense("recompute", gradient, kernel, data) for _ in range(2))
    assert (first == second).all()
