"""Convolutions that take batch norm's sums: they compute what they do without, and the sums are those of what they
write."""

from __future__ import annotations

import math

import pytest

from mest_compiler.kernels.fusion import ForwardSums, Fused
from mest_compiler.schedules.cpu import dense_gather

from .convolutions import Conv, Data, dx_buffer, y_buffer
from .epilogues import Norm, check_forward, sums_buffer
from .generators import families_of, gathers
from .sparse_layers import SparseCase, fitted, hostile_masks, sparse_conv
from .test_dense_convolution import LAYERS as DENSE
from .test_sparse_convolution import ALL, BLOCKS, CASES, GATHERS, VECTORS, turn
from .tiles import NARROW, compile_kernels, untile, vector

# Batch norms that a backward-data may stand behind.
NORMS = (
    {"relu": True},
    {"relu": False, "border": 1},
    {"relu": True, "upper": 0.75, "border": 2},
    {"relu": True, "reads_z": True},
    {"relu": True, "upper": 0.5, "reads_z": True, "border": 1},
)


def run(what: str, kernel, direction: str, data: Data, weights: list, norm: Norm) -> None:
    """Calls and checks a kernel on poisoned memory."""
    g, conv, vec = data.g, data.conv, vector_of(data)
    if direction == "forward":
        y, sums = y_buffer(g), sums_buffer(g, g.filters)
        kernel(data.x, *weights, y, sums)
        data.check_y(what, y)
        check_forward(what, y, sums, g)
    else:
        dx, sums = dx_buffer(g), sums_buffer(g, g.channels)
        kernel(data.dy, *weights, *norm.arguments(vec), dx, sums)
        data.check(what, untile(dx, conv.batch, conv.channels, g.dx), norm.masked(data.dx_ref))
        norm.check(what, dx, sums, g)


def vector_of(data: Data):
    """The vectors that a layer's data is tiled for."""
    return next(v for v in (vector(*pair) for pair in VECTORS) if (v.lanes, v.dtype) == (data.g.lanes, data.g.dtype))


def check_sparse(
    name: str, scheme: str, vectors: tuple[int, str], number: int, count: int = 1, opt_level: int = 0
) -> None:
    """Kernels of every family with the knobs whose turn it is, on every hostile mask."""
    conv, vec = fitted(CASES[name], scheme), vector(*vectors)
    layer, kernels = sparse_conv(conv, vec, scheme), []
    norm = Norm.make(conv.batch, layer.geometry, **NORMS[number % len(NORMS)])
    fused = {"forward": Fused(ForwardSums()), "backward_data": Fused(norm.epilogue)}
    for family in families_of(scheme, conv.stride):
        knobs, block = turn(GATHERS, number, count), BLOCKS[number % len(BLOCKS)]
        kernels += gathers(layer, family, knobs, block, fused)
    machine = compile_kernels({i: kernel.make() for i, kernel in enumerate(kernels)}, opt_level)
    for mask_name, mask in hostile_masks(scheme, conv.weight_shape, number).items():
        case = SparseCase.make(conv, layer, mask, parts=(1, 2, 3, None)[number % 4])
        for i, kernel in enumerate(kernels):
            weights = [case.values(), *case.index(kernel.direction, kernel.family, kernel.groups)]
            run(f"{kernel} on mask {mask_name!r}", machine[i], kernel.direction, case.data, weights, norm)


def check_dense(
    conv: Conv, vectors: tuple[int, str], number: int, blocks: tuple, knobs: tuple, opt_level: int = 0
) -> None:
    """The dense kernels."""
    vec = vector(*vectors)
    g, data = conv.geometry(vec), Data.make(conv, vec)
    norm, made = Norm.make(conv.batch, g, **NORMS[number % len(NORMS)]), {}
    for block in blocks:
        for k in knobs:
            made["forward", block, k] = dense_gather.forward(g, block, k, Fused(ForwardSums()))
            made["backward_data", block, k] = dense_gather.backward_data(g, block, k, Fused(norm.epilogue))
    for what, kernel in compile_kernels(made, opt_level).items():
        run(str(what), kernel, what[0], data, [data.weight_tensor()], norm)


# Each layer that is awkward here, and each form of kernels, which are tested in full without epilogues.
SOME = [
    ("3x3, odd plane", "unstructured"), ("3x3, odd plane", "block"), ("stride 2", "pattern"), ("stride 2", "channel"),
    ("stride (3, 2)", "filter"), ("1x1, stride 2", "block:4x4"), ("taps that meet no pixel", "channel"),
    ("plane smaller than the stride", "unstructured"), ("dilation (1, 3), stride 2", "block:8x1"),
    ("3x3, even plane, full tiles", "filter"), ("1x1 plane", "pattern"), ("5x5, stride 2", "block:3x2"),
]  # fmt: skip


# Of each form one layer with strides and one without; these are slow.
LIKE_OTHERS = (("3x3, odd plane", "unstructured"), ("5x5, stride 2", "block:3x2"), ("1x1 plane", "pattern"),
               ("1x1, stride 2", "block:4x4"))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "scheme"), [pytest.param(*one, marks=pytest.mark.slow if one in LIKE_OTHERS else ()) for one in SOME]
)
def test_sparse_layer(name: str, scheme: str) -> None:
    number = ALL.index((name, scheme))
    check_sparse(name, scheme, VECTORS[number % len(VECTORS)], number)


@pytest.mark.parametrize(
    "name",
    [
        "3x3, odd plane", "two groups, stride 2", "depthwise", "grouped 1x1",
        pytest.param("stride (3, 2)", marks=pytest.mark.slow),  # as with every norm
    ],
)  # fmt: skip
def test_dense_layer(name: str) -> None:
    number = list(DENSE).index(name)
    vectors = VECTORS[number % len(VECTORS)]
    check_dense(DENSE[name], vectors, number, turn(BLOCKS, number, 1), turn(GATHERS, number + 1, 1))


def test_optimised_code() -> None:
    check_sparse("stride 2", "block", (NARROW, "float32"), 1, opt_level=3)


@pytest.mark.parametrize("number", range(len(NORMS)))
def test_every_norm(number: int) -> None:
    check_dense(CASES["stride (3, 2)"], VECTORS[number % 2], number, (2,), GATHERS[1:2])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize(("name", "scheme"), ALL)
def test_every_sparse_layer(name: str, scheme: str, number: int) -> None:
    turn_ = 2 * ALL.index((name, scheme)) + number
    check_sparse(name, scheme, VECTORS[turn_ % len(VECTORS)], turn_, 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("name", DENSE)
def test_every_dense_layer(name: str, number: int) -> None:
    turn_ = 2 * list(DENSE).index(name) + number
    knobs = turn(GATHERS, turn_, 2)
    check_dense(DENSE[name], VECTORS[turn_ % len(VECTORS)], turn_, turn(BLOCKS, turn_, 1), knobs, 3 * number)


def test_what_tells_kernels_apart_can_be_a_key() -> None:
    g = CASES["1x1"].geometry(vector(NARROW, "float32"))
    norms = [Norm.make(4, g, **norm).epilogue for norm in NORMS]
    assert len({ForwardSums(), ForwardSums(), *norms, *norms}) == 1 + len(NORMS)
    assert math.isinf(norms[0].upper)
