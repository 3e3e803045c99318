"""Forward and backward-data of every scheme on OpenCL against dense float64 convolutions, over layers, masks, knobs and
batch lanes."""

from __future__ import annotations

import pytest

from mest_compiler.schedules.opencl.emit import Vec

from ..convolutions import Conv
from ..generators import families_of
from ..sparse_layers import SCHEMES, SparseCase, fitted, hostile_masks, sparse_conv
from ..test_sparse_convolution import ALL, CASES
from .gathers import KNOBS, VECTORS, gathers
from .launching import compile_kernels

# A few that meet every scheme, odd planes, strides, other kernels, and more than one batch tile.
SOME = (
    ("3x3, odd plane", "block"),
    ("stride 2", "unstructured"),
    ("stride (3, 2)", "pattern"),
    ("5x5, stride 2", "block:3x2"),
    ("stride (2, 1)", "channel"),
    ("dilation (1, 3), stride 2", "filter"),
    ("3x3, odd plane", "pattern"),
    ("1x1, stride 2", "block:8x1"),
    ("plane smaller than the kernel", "block:4x4"),
    ("1x1", "block:1x4"),
)


def check(conv: Conv, scheme: str, vec: Vec, number: int, count: int) -> None:
    """Kernels with `count` of the knobs, others for each number, compiled once, on every hostile mask."""
    conv = fitted(conv, scheme)
    layer = sparse_conv(conv, vec, scheme, spare=3 * (number % 2))
    knobs = [KNOBS[(number + i) % len(KNOBS)] for i in range(count)]
    # Rows of places are no candidates on OpenCL: bodies are tried with patterns.
    kernels = gathers(layer, families_of(scheme, conv.stride)[0], knobs)
    machine = compile_kernels({i: kernel.make() for i, kernel in enumerate(kernels)})
    for turn, (mask_name, mask) in enumerate(hostile_masks(scheme, conv.weight_shape, number).items()):
        case = SparseCase.make(conv, layer, mask, parts=(1, 2, 3, None)[turn % 4])
        for i, kernel in enumerate(kernels):
            what = f"{kernel} on mask {mask_name!r}"
            case.run(what, machine[i], kernel.direction, kernel.family, kernel.groups)


# PoCL takes seconds for a body of nine taps; the one with strides has it in parts.
@pytest.mark.parametrize(
    ("name", "scheme"),
    [pytest.param(*one, marks=pytest.mark.slow if one == ("3x3, odd plane", "pattern") else ()) for one in SOME],
)
def test_layer(name: str, scheme: str) -> None:
    number = SOME.index((name, scheme))
    check(CASES[name], scheme, VECTORS[number % len(VECTORS)], number, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scheme"), ALL)
def test_every_layer(name: str, scheme: str) -> None:
    number = ALL.index((name, scheme))
    check(CASES[name], scheme, VECTORS[number % len(VECTORS)], number, 2)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_many_entries(scheme: str) -> None:
    check(Conv(32, 32, (8, 8), batch=70), scheme, VECTORS[2], SCHEMES.index(scheme), 2)
