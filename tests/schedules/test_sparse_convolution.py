"""Sparse convolution kernels against dense float64 convolutions, over layers, masks, knobs and vector widths."""

import pytest

from mest_compiler.schedules.cpu import gather, weight_gradient
from mest_compiler.schedules.cpu.gather import GatherKnobs
from mest_compiler.schedules.cpu.weight_gradient import WeightGradientKnobs

from .convolutions import Conv, SparseLayer, hostile_masks
from .tiles import NARROW, WIDE, compile_kernels, vector

CASES = {
    "3x3, odd plane": Conv(7, 12, (9, 7), batch=11),
    "3x3, even plane, full tiles": Conv(8, 16, (8, 8), batch=16, margin=1),
    "stride 2": Conv(6, 8, (7, 9), stride=(2, 2)),
    "stride 2, last row unread": Conv(4, 8, (8, 8), stride=(2, 2), padding=(0, 0), batch=3),
    "stride (3, 2)": Conv(4, 8, (9, 9), stride=(3, 2), batch=3),
    "stride beyond the kernel": Conv(3, 4, (8, 7), kernel=(2, 2), stride=(3, 3), padding=(0, 0), batch=3),
    "1x1": Conv(9, 8, (6, 5), kernel=(1, 1), padding=(0, 0), batch=4),
    "1x1, stride 2": Conv(8, 4, (6, 5), kernel=(1, 1), stride=(2, 2), padding=(0, 0), batch=17, margin=1),
    "1x1, padded": Conv(3, 4, (3, 4), kernel=(1, 1), padding=(1, 1), batch=2),
    "5x5": Conv(3, 8, (8, 8), kernel=(5, 5), padding=(2, 2), batch=3),
    "(3, 2), stride (1, 2), padding (2, 0)": Conv(4, 4, (5, 6), (3, 2), (1, 2), (2, 0), batch=3),
    "(1, 5), padding (0, 2)": Conv(5, 4, (4, 7), kernel=(1, 5), padding=(0, 2), batch=3),
    "dilation 2": Conv(4, 8, (9, 8), padding=(2, 2), dilation=(2, 2), batch=3),
    "dilation (1, 3), stride 2": Conv(3, 4, (7, 8), (3, 2), (2, 2), (1, 3), (1, 3), batch=3, margin=2),
    "taps that meet no pixel": Conv(2, 4, (3, 2), padding=(3, 3), dilation=(3, 3), batch=3),
    "plane smaller than the kernel": Conv(4, 8, (2, 2), batch=3),
    "1x1 plane": Conv(4, 8, (1, 1), batch=2),
    "one channel": Conv(1, 4, (6, 6), batch=9),
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
    WeightGradientKnobs(entries=3, rows=4, groups=1, chunks=1),
    WeightGradientKnobs(entries=2, rows=1, groups=2, chunks=2),
    WeightGradientKnobs(entries=1, rows=99, groups=3, chunks=3),
    WeightGradientKnobs(entries=4, rows=3, groups=1, chunks=99),
)
DOTS = (
    WeightGradientKnobs(pixels=8, groups=1, chunks=2, chains=2),
    WeightGradientKnobs(pixels=3, groups=3, chunks=99, chains=1),
    WeightGradientKnobs(pixels=16, groups=2, chunks=3, chains=3),
)
# (bits of a vector, dtype)
VECTORS = ((NARROW, "float32"), (NARROW, "float64"), (WIDE, "float32"), (WIDE, "float64"))


def check(conv: Conv, bits: int, dtype: str, block: int, gathers, outers, dots, opt_level: int = 0) -> None:
    """Every kernel with every set of knobs, on every hostile mask."""
    vec = vector(bits, dtype)
    g = conv.geometry(vec)
    made, runs = {}, {}
    for k in gathers:
        made["forward", k] = gather.sparse_forward(g, block, k)
        made["backward_data", k] = gather.sparse_backward_data(g, block, k)
    for k in outers:
        made["outer", k] = weight_gradient.sparse_outer(g, block, k)
    for k in dots if block == 1 else ():
        made["dots", k] = weight_gradient.sparse_dots(g, block, k)
    runs = compile_kernels(made, opt_level)
    for number, (mask_name, mask) in enumerate(hostile_masks(conv.weight_shape, block).items()):
        layer = SparseLayer.make(conv, vec, block, mask, parts=1 + number % 3)
        for (name, knobs), kernel in runs.items():
            what = f"{name} {knobs} on mask {mask_name!r}"
            if name == "forward":
                layer.run_forward(what, kernel, knobs.groups)
            elif name == "backward_data":
                layer.run_backward_data(what, kernel, knobs.groups)
            else:
                layer.run_backward_weight(what, kernel, knobs.groups)


def turn(knobs: tuple, number: int, count: int) -> tuple:
    """`count` of the knobs, others for each number, so that a few cases meet them all."""
    return tuple(knobs[(number + i) % len(knobs)] for i in range(count))


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("name", CASES)
def test_layer(name: str, block: int) -> None:
    number = list(CASES).index(name) + block
    bits, dtype = VECTORS[number % len(VECTORS)]
    check(CASES[name], bits, dtype, block, turn(GATHERS, number, 1), turn(OUTERS, number, 1), turn(DOTS, number, 1))


@pytest.mark.parametrize(("bits", "dtype"), VECTORS)
def test_optimised_code(bits: int, dtype: str) -> None:
    # What users run; without LLVM's optimiser nothing is vectorised beyond what the kernels say.
    block = 1 if bits == NARROW else 4
    check(CASES["stride 2"], bits, dtype, block, GATHERS[:1], OUTERS[:1], DOTS[:1], opt_level=3)


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize(("bits", "dtype"), VECTORS)
@pytest.mark.parametrize("name", CASES)
def test_every_layer_with_every_knob(name: str, bits: int, dtype: str, block: int) -> None:
    check(CASES[name], bits, dtype, block, GATHERS, OUTERS, DOTS)


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize(("bits", "dtype"), VECTORS[:3])
@pytest.mark.parametrize("name", CASES)
def test_every_layer_optimised(name: str, bits: int, dtype: str, block: int) -> None:
    check(CASES[name], bits, dtype, block, GATHERS[:2], OUTERS[:1], DOTS[:1], opt_level=3)


def test_dots_are_for_single_weights() -> None:
    g = CASES["1x1"].geometry(vector(NARROW, "float32"))
    with pytest.raises(ValueError, match="single weights"):
        weight_gradient.sparse_dots(g, 4, DOTS[0])
