"""Sparse convolution kernels of every scheme against dense float64 convolutions, over layers, masks, knobs and vector
widths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pytest

from mest_compiler.schedules.cpu import block_gradient
from mest_compiler.schedules.cpu.gather import GatherKnobs
from mest_compiler.schedules.cpu.weight_gradient import WeightGradientKnobs

from ..pairwise import pairwise
from .convolutions import Conv
from .generators import families_of, gathers, gradients
from .sparse_layers import SCHEMES, SparseCase, fitted, hostile_masks, sparse_conv
from .tiles import NARROW, WIDE, compile_kernels, vector

CASES = {
    "3x3, odd plane": Conv(7, 12, (9, 7), batch=11),
    "3x3, even plane, full tiles": Conv(8, 16, (8, 8), batch=16, margin=1),
    "3x3, asymmetric padding": Conv(4, 6, (5, 8), padding=(2, 0), batch=3),
    "stride 2": Conv(6, 8, (7, 9), stride=(2, 2)),
    "stride (2, 1)": Conv(5, 6, (9, 6), stride=(2, 1), batch=9),
    "stride 2, last row unread": Conv(4, 8, (8, 8), stride=(2, 2), padding=(0, 0), batch=3),
    "stride (3, 2)": Conv(4, 8, (9, 9), stride=(3, 2), batch=3),
    "stride beyond the kernel": Conv(3, 4, (8, 7), kernel=(2, 2), stride=(3, 3), padding=(0, 0), batch=3),
    "1x1": Conv(9, 8, (6, 5), kernel=(1, 1), padding=(0, 0), batch=4),
    "1x1, stride 2": Conv(8, 4, (6, 5), kernel=(1, 1), stride=(2, 2), padding=(0, 0), batch=17, margin=1),
    "1x1, padded": Conv(3, 4, (3, 4), kernel=(1, 1), padding=(1, 1), batch=2),
    "5x5": Conv(3, 8, (8, 8), kernel=(5, 5), padding=(2, 2), batch=3),
    "5x5, stride 2": Conv(2, 4, (9, 8), kernel=(5, 5), stride=(2, 2), padding=(1, 2), batch=3),
    "(1, 3), padding (0, 1)": Conv(6, 5, (4, 7), kernel=(1, 3), padding=(0, 1), batch=3),
    "(1, 3), stride (2, 1)": Conv(4, 4, (5, 7), kernel=(1, 3), stride=(2, 1), padding=(1, 0), batch=3),
    "(3, 2), stride (1, 2), padding (2, 0)": Conv(4, 4, (5, 6), (3, 2), (1, 2), (2, 0), batch=3),
    "dilation 2": Conv(4, 8, (9, 8), padding=(2, 2), dilation=(2, 2), batch=3),
    "dilation (1, 3), stride 2": Conv(3, 4, (7, 8), (3, 2), (2, 2), (1, 3), (1, 3), batch=3, margin=2),
    "dilation (2, 1), stride (2, 1)": Conv(3, 4, (9, 6), stride=(2, 1), dilation=(2, 1), batch=3, margin=1),
    "taps that meet no pixel": Conv(2, 4, (3, 2), padding=(3, 3), dilation=(3, 3), batch=3),
    "plane smaller than the kernel": Conv(4, 8, (2, 2), batch=3),
    "plane smaller than the stride": Conv(3, 4, (1, 2), stride=(2, 3), batch=3),
    "1x1 plane": Conv(4, 8, (1, 1), batch=2),
    "one channel": Conv(1, 4, (6, 6), batch=9),
    "one filter": Conv(3, 1, (4, 5), batch=3),
    "kernel equals plane": Conv(2, 4, (4, 3), kernel=(4, 3), padding=(0, 0), batch=3),
}
GATHERS = (
    GatherKnobs(12, 1, False),
    GatherKnobs(3, 2, True),
    GatherKnobs(5, 3, False),
    GatherKnobs(14, 1, True),
    GatherKnobs(1, 99, True),
)
OUTERS = (
    WeightGradientKnobs(entries=3, pixels=8, rows=4, groups=1, chunks=1, chains=2),
    WeightGradientKnobs(entries=2, pixels=3, rows=1, groups=2, chunks=2, chains=1),
    WeightGradientKnobs(entries=1, pixels=5, rows=99, groups=3, chunks=3, chains=3),
    WeightGradientKnobs(entries=6, pixels=16, rows=3, groups=99, chunks=99, chains=1),
)
FORMS = ("unstructured", "channel", "pattern")
"""A scheme of each form of kernels."""
BLOCKS = (4, 3, 1)  # output planes a register tile, where kernels have that knob
# (bits of a vector, dtype)
VECTORS = ((NARROW, "float32"), (NARROW, "float64"), (WIDE, "float32"), (WIDE, "float64"))


def fits(name: str, scheme: str) -> bool:
    """Patterns are for 3x3 kernels."""
    return scheme != "pattern" or CASES[name].kernel == (3, 3)


def turn(knobs: tuple, number: int, count: int) -> tuple:
    """`count` of the knobs, others for each number, so that a few cases meet them all."""
    return tuple(knobs[(number + i) % len(knobs)] for i in range(count))


def check(
    name: str, scheme: str, vectors: tuple[int, str], number: int, gather_count: int = 1, gradient_count: int = 1,
    opt_level: int = 0,
) -> None:  # fmt: skip
    """Kernels with the knobs whose turn it is."""
    check_kernels(
        name, scheme, vectors, turn(GATHERS, number, gather_count), turn(OUTERS, number, gradient_count),
        BLOCKS[number % len(BLOCKS)], 3 * (number % 2), number, opt_level,
    )  # fmt: skip


def check_kernels(
    name: str, scheme: str, vectors: tuple[int, str], gather: Sequence[GatherKnobs],
    outer: Sequence[WeightGradientKnobs], block: int, spare: int, seed: int, opt_level: int = 0,
) -> None:  # fmt: skip
    """Kernels of every family with these knobs, compiled once, on every hostile mask."""
    conv, vec = fitted(CASES[name], scheme), vector(*vectors)
    layer, kernels = sparse_conv(conv, vec, scheme, spare), []
    for family in families_of(scheme, conv.stride):
        kernels += gathers(layer, family, gather, block)
        kernels += gradients(layer, family, outer, block)
    machine = compile_kernels({i: kernel.make() for i, kernel in enumerate(kernels)}, opt_level)
    for turn_, (mask_name, mask) in enumerate(hostile_masks(scheme, conv.weight_shape, seed).items()):
        case = SparseCase.make(conv, layer, mask, parts=(1, 2, 3, None)[turn_ % 4])
        for i, kernel in enumerate(kernels):
            what = f"{kernel} on mask {mask_name!r}"
            case.run(what, machine[i], kernel.direction, kernel.family, kernel.groups)


ALL = [(name, scheme) for name in CASES for scheme in SCHEMES if fits(name, scheme)]
# For OpenCL: every scheme meets the first layer and every seventh other one.
SOME = [
    (name, scheme)
    for name, scheme in ALL
    if name == "3x3, odd plane" or (2 * list(CASES).index(name) + SCHEMES.index(scheme)) % 7 == 0
]


# Blocks of several filters have the kernels of single weights: two shapes of them meet all the rest.
MET = [scheme for scheme in SCHEMES if scheme not in ("block:8x1", "block:4x4")]
# Of the gathers with many pixels one is enough here; the other one is with epilogues and with dense layers.
ROWS = pairwise(
    {"scheme": MET, "gather": GATHERS[1:], "outer": OUTERS, "vectors": VECTORS, "block": BLOCKS, "spare": (0, 3)}
) + [
    dict(scheme=scheme, gather=GATHERS[i], outer=OUTERS[i], vectors=VECTORS[i], block=BLOCKS[i], spare=3 * i)
    for i, scheme in enumerate(("block:8x1", "block:4x4"))
]  # fmt: skip


def spread(schemes: Iterable[str]) -> list[str]:
    """A layer for each of the schemes in turn, always one that was taken least."""
    taken, found = Counter(), []
    for scheme in schemes:
        found.append(min((name for name in CASES if fits(name, scheme)), key=taken.__getitem__))
        taken[found[-1]] += 1
    return found


LAYERS = spread(row["scheme"] for row in ROWS)


@pytest.mark.parametrize("seed", range(len(ROWS)), ids=lambda i: f"{LAYERS[i]}-{ROWS[i]['scheme']}")
def test_layer(seed: int) -> None:
    row = dict(ROWS[seed])
    check_kernels(LAYERS[seed], gather=[row.pop("gather")], outer=[row.pop("outer")], seed=seed, **row)


def test_every_layer_is_there() -> None:
    assert set(LAYERS) == set(CASES)


# What users run; without LLVM's optimiser nothing is vectorised beyond what the kernels say.
@pytest.mark.parametrize(
    ("scheme", "vectors"),
    [
        (scheme, vectors) if scheme in FORMS else pytest.param(scheme, vectors, marks=pytest.mark.slow)
        for scheme, vectors in zip(SCHEMES, VECTORS * 3, strict=False)
    ],
)
def test_optimised_code(scheme: str, vectors: tuple[int, str]) -> None:
    check("stride 2" if scheme != "unstructured" else "3x3, odd plane", scheme, vectors, 1, opt_level=3)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(("name", "scheme"), ALL)
def test_every_layer_with_every_knob(name: str, scheme: str, number: int) -> None:
    check(name, scheme, VECTORS[number], number, len(GATHERS), len(OUTERS))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(("name", "scheme"), ALL)
def test_every_layer_optimised(name: str, scheme: str, number: int) -> None:
    check(name, scheme, VECTORS[number], number, 2, opt_level=3)


def test_dots_are_for_blocks_of_one_filter() -> None:
    layer = sparse_conv(CASES["1x1"], vector(NARROW, "float32"), "block")
    with pytest.raises(ValueError, match="blocks of one filter"):
        block_gradient.dots(layer, OUTERS[0], {})
