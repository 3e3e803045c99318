"""Convolutions that compute the batch norm in front of them themselves: forward and weight gradients, of every form,
against float64 ones of what the batch norm gives."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import tvm

from mest_compiler.kernels.fusion import ALONE, ForwardSums, Fused
from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.kernels.problem import DIRECTIONS
from mest_compiler.schedules.cpu import dense_gather, dense_gradient
from mest_compiler.schedules.cpu.emit import Vec
from mest_compiler.schedules.cpu.gather import GatherKnobs
from mest_compiler.schedules.cpu.weight_gradient import WeightGradientKnobs

from .convolutions import Conv, Data, y_buffer
from .epilogues import Norm, check_forward, sums_buffer
from .generators import Kernel, families_of, gathers, gradients
from .sparse_layers import SparseCase, fitted, hostile_masks, sparse_conv
from .test_dense_convolution import LAYERS as DENSE
from .test_sparse_convolution import ALL, BLOCKS, CASES, GATHERS, OUTERS, VECTORS, turn
from .tiles import NARROW, border_of, compile_kernels, poisoned, untile, vector

FORWARD, _, GRADIENT = DIRECTIONS
# Batch norms in front; `border`: of what they read, beside the convolution's own.
NORMS = (
    {"relu": True},
    {"relu": False, "border": 2},
    {"relu": True, "upper": 0.75, "border": 1},
    {"relu": False},
    {"relu": True, "border": 3},
)
CHUNKS = (2, 3, 1, 8)  # parts of the batch tiles; of two tiles some get none
EPILOGUES = (None, ForwardSums(), ForwardSums())


def room(recompute: Normalisation, chunks: int) -> tvm.runtime.Tensor:
    """A poisoned workspace."""
    return poisoned((chunks, recompute.channels * recompute.z.size, recompute.vec.lanes), recompute.vec.dtype)


def run_forward(
    what: str, kernel: Callable[..., None], data: Data, norm: Norm, weights: list[tvm.runtime.Tensor], fused: Fused
) -> None:
    """Calls and checks a forward kernel on poisoned memory."""
    g, y = data.g, y_buffer(data.g)
    sums = [] if fused.epilogue is None else [sums_buffer(g, g.filters)]
    kernel(*norm.arguments(fused.recompute.vec), *weights, y, *sums, room(fused.recompute, fused.chunks))
    data.check_y(what, y)
    if sums:
        check_forward(what, y, *sums, g)


def run_gradient(
    what: str, kernel: Callable[..., None], data: Data, norm: Norm, indices: list[tvm.runtime.Tensor],
    shape: tuple[int, ...], recompute: Normalisation, chunks: int,
) -> np.ndarray:  # fmt: skip
    """Calls a weight gradient on poisoned memory; gives what it writes, values of this shape."""
    out, work = poisoned(shape, data.g.dtype), poisoned((math.prod(shape), data.g.lanes), data.g.dtype)
    kernel(*norm.arguments(recompute.vec), data.dy, *indices, out, work, room(recompute, chunks))
    return out.numpy()


def fused_of(number: int, recompute: Normalisation) -> Fused:
    """What the forward kernels whose turn it is do besides; each meets every block and every vector."""
    epilogue = EPILOGUES[(number + number // len(BLOCKS)) % len(EPILOGUES)]
    return Fused(epilogue, recompute, CHUNKS[(number + number // len(VECTORS)) % len(CHUNKS)])


def check_sparse(
    name: str, scheme: str, vectors: tuple[int, str], number: int, count: int = 1, opt_level: int = 0
) -> None:
    """Kernels of every family with the knobs whose turn it is, on every hostile mask."""
    conv, vec = fitted(CASES[name], scheme), vector(*vectors)
    layer = sparse_conv(conv, vec, scheme)
    g, block = layer.geometry, BLOCKS[number % len(BLOCKS)]
    norm = Norm.make(conv.batch, g, **NORMS[number % len(NORMS)])
    fused = fused_of(number, norm.recompute(g, vec))
    kernels: list[tuple[Kernel, int]] = []
    for family in families_of(scheme, conv.stride):
        made = gathers(layer, family, turn(GATHERS, number, count), block, {FORWARD: fused})
        kernels += [(kernel, fused.chunks) for kernel in made if kernel.direction == FORWARD]
        for k in turn(OUTERS, number, count):
            kernels += [(kernel, k.chunks) for kernel in gradients(layer, family, [k], block, fused.recompute)]
    machine = compile_kernels({i: kernel.make() for i, (kernel, _) in enumerate(kernels)}, opt_level)
    for mask_name, mask in hostile_masks(scheme, conv.weight_shape, number).items():
        case = SparseCase.make(conv, layer, mask, parts=(1, 2, 3, None)[number % 4], x=norm.output())
        s, data = case.structure, case.data
        for i, (kernel, chunks) in enumerate(kernels):
            what = f"{kernel} on mask {mask_name!r}"
            indices = case.index(kernel.direction, kernel.family, kernel.groups)
            if kernel.direction == FORWARD:
                run_forward(what, machine[i], data, norm, [case.values(), *indices], fused)
                continue
            shape = s.spec.values_shape
            found = run_gradient(what, machine[i], data, norm, indices, shape, fused.recompute, chunks)
            data.check(what, found[: s.entries], s.compact(data.dw_ref)[: s.entries])


def check_dense(conv: Conv, vectors: tuple[int, str], number: int, count: int = 1, opt_level: int = 0) -> None:
    """The dense kernels with the knobs whose turn it is."""
    vec, block = vector(*vectors), BLOCKS[number % len(BLOCKS)]
    g, made = conv.geometry(vec), {}
    norm = Norm.make(conv.batch, g, **NORMS[number % len(NORMS)])
    fused = fused_of(number, norm.recompute(g, vec))
    for k in turn(GATHERS, number, count):
        made[FORWARD, k] = dense_gather.forward(g, block, k, fused)
    for k in turn(OUTERS, number, count):
        made[GRADIENT, k] = dense_gradient.dense(g, block, k, fused.recompute)
    data = Data.make(conv, vec, x=norm.output())
    for (direction, k), kernel in compile_kernels(made, opt_level).items():
        what = f"{direction} {k}"
        if direction == FORWARD:
            run_forward(what, kernel, data, norm, [data.weight_tensor()], fused)
        else:
            found = run_gradient(what, kernel, data, norm, [], conv.weight_shape, fused.recompute, k.chunks)
            data.check(what, found, data.dw_ref)


# Each layer that is awkward here, and each form of kernels, which are tested in full without batch norms.
SOME = [
    ("3x3, odd plane", "unstructured"), ("stride 2", "pattern"), ("stride 2", "channel"),
    ("stride (3, 2)", "filter"), ("1x1, stride 2", "block:4x4"), ("stride 2, last row unread", "block"),
    ("1x1", "unstructured"), ("dilation (1, 3), stride 2", "block:8x1"), ("5x5, stride 2", "block:3x2"),
    ("3x3, even plane, full tiles", "filter"), ("dilation 2", "channel"), ("1x1, padded", "block:1x4"),
]  # fmt: skip
SOME_DENSE = ["3x3, odd plane", "stride 2, last row unread", "1x1, stride 2", "two groups, stride 2", "grouped 1x1",
              "depthwise, stride 2", "depthwise (3, 1), dilation 2"]  # fmt: skip


# A layer of each form of kernels and of each kind of stride; the others are slow.
QUICK = ("3x3, odd plane", "stride 2", "stride (3, 2)", "stride 2, last row unread", "dilation (1, 3), stride 2",
         "1x1, stride 2")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "scheme"), [pytest.param(*one, marks=() if one[0] in QUICK else pytest.mark.slow) for one in SOME]
)
def test_sparse_layer(name: str, scheme: str) -> None:
    number = SOME.index((name, scheme))
    check_sparse(name, scheme, VECTORS[number % len(VECTORS)], number)


QUICK_DENSE = ("3x3, odd plane", "two groups, stride 2", "grouped 1x1", "depthwise (3, 1), dilation 2")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK_DENSE else pytest.mark.slow) for name in SOME_DENSE]
)
def test_dense_layer(name: str) -> None:
    number = SOME_DENSE.index(name)
    check_dense(DENSE[name], VECTORS[(number + 1) % len(VECTORS)], number)


def test_optimised_code() -> None:
    check_sparse("stride 2", "block", (NARROW, "float32"), 1, opt_level=3)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize(("name", "scheme"), ALL)
def test_every_sparse_layer(name: str, scheme: str, number: int) -> None:
    place = ALL.index((name, scheme))
    check_sparse(name, scheme, VECTORS[(place + number) % len(VECTORS)], 2 * place + number, 2, 3 * number)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("name", DENSE)
def test_every_dense_layer(name: str, number: int) -> None:
    turn_ = 3 * list(DENSE).index(name) + number
    check_dense(DENSE[name], VECTORS[(turn_ + number) % len(VECTORS)], turn_, 2, 3 * (number == 1))


CONV, KNOBS = Conv(3, 4, (5, 6), stride=(2, 1), batch=11), GatherKnobs(5, 2, True)


def forwards(
    norm: Norm, vec: Vec, fused: dict[object, Fused], weight: np.ndarray, opt_level: int = 0
) -> dict[object, tvm.runtime.Tensor]:
    """What CONV's dense kernels give behind a batch norm."""
    g, found = CONV.geometry(vec), {}
    made = {key: dense_gather.forward(g, 2, KNOBS, one) for key, one in fused.items()}
    for key, kernel in compile_kernels(made, opt_level).items():
        found[key] = y_buffer(g)
        kernel(
            *norm.arguments(vec), tvm.runtime.tensor(weight), found[key], room(fused[key].recompute, fused[key].chunks)
        )
    return found


def test_any_number_of_chunks_gives_the_same_bits() -> None:
    vec = vector(NARROW, "float64")  # three tiles
    g = CONV.geometry(vec)
    norm = Norm.make(CONV.batch, g, relu=True, border=2)
    data = Data.make(CONV, vec, x=norm.output())
    fused = {chunks: Fused(None, norm.recompute(g, vec), chunks) for chunks in (1, 2, 3, 4, 7)}
    found = forwards(norm, vec, fused, data.weight)
    data.check_y("one chunk", found[1])
    for chunks, y in found.items():
        np.testing.assert_array_equal(y.numpy(), found[1].numpy(), str(chunks))


def test_every_chunk_works_in_a_tile_of_its_own() -> None:
    # Threads that shared one would race, which a test only sees if they happen to meet.
    vec, chunks = vector(NARROW, "float64"), 3  # and three tiles
    g = CONV.geometry(vec)
    norm = Norm.make(CONV.batch, g, relu=True, border=2)
    recompute, data = norm.recompute(g, vec), Data.make(CONV, vec, x=norm.output())
    made = {
        FORWARD: dense_gather.forward(g, 2, KNOBS, Fused(None, recompute, chunks)),
        GRADIENT: dense_gradient.dense(g, 1, WeightGradientKnobs(chunks=chunks), recompute),
    }
    kernels, rooms = compile_kernels(made), {direction: room(recompute, chunks) for direction in made}
    kernels[FORWARD](*norm.arguments(vec), data.weight_tensor(), y_buffer(g), rooms[FORWARD])
    out, work = (poisoned(shape, vec.dtype) for shape in (CONV.weight_shape, (data.weight.size, vec.lanes)))
    kernels[GRADIENT](*norm.arguments(vec), data.dy, out, work, rooms[GRADIENT])
    wanted = norm.output()
    data.check("a tile a chunk", untile(rooms[FORWARD], CONV.batch, CONV.channels, g.x), wanted)
    rest = CONV.batch % vec.lanes  # examples of the last tile
    found = untile(rooms[GRADIENT], chunks * vec.lanes, CONV.channels, g.x)
    for chunk in range(chunks):
        data.check(f"the last tile in chunk {chunk}", found[chunk * vec.lanes :][:rest], wanted[-rest:])
    for direction in made:
        assert (border_of(rooms[direction], CONV.channels, g.x) == 0).all()


@pytest.mark.parametrize("opt_level", [0, 3])
@pytest.mark.parametrize("upper", [math.inf, 6.0])
def test_nan_passes_through_the_relu(upper: float, opt_level: int) -> None:
    vec = vector(NARROW, "float32")
    g = CONV.geometry(vec)
    norm = Norm.make(CONV.batch, g, relu=True, upper=upper)
    norm.x[3, 0] = np.nan
    weight = np.ones(CONV.weight_shape, np.float32)
    (y,) = forwards(norm, vec, {"": Fused(None, norm.recompute(g, vec))}, weight, opt_level).values()
    found = np.isnan(untile(y, CONV.batch, CONV.filters, g.y))
    assert found[3].all() and not np.delete(found, 3, axis=0).any()


def test_what_tells_kernels_apart_can_be_a_key() -> None:
    vec = vector(NARROW, "float32")
    g = CONV.geometry(vec)
    norms = [Norm.make(CONV.batch, g, **norm).recompute(g, vec) for norm in NORMS]
    some = [Fused(), *(Fused(e, n, chunks) for e in EPILOGUES[:2] for n in norms for chunks in CHUNKS)]
    assert len({*some, *some, ALONE}) == len(some)
    names = {fused.named("f") for fused in (*some, Fused(ForwardSums()))}
    assert names == {"f", "f_sums", "f_normalised", "f_normalised_sums"}
