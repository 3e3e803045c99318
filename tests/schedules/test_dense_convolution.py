"""Dense, grouped and depthwise convolution kernels against float64 ones, over layers, knobs and vector widths."""

import pytest

from mest_compiler.schedules.cpu import dense_gather, dense_gradient
from mest_compiler.schedules.cpu.gather import GatherKnobs
from mest_compiler.schedules.cpu.weight_gradient import WeightGradientKnobs

from .convolutions import Conv, Data, dx_buffer, y_buffer
from .test_sparse_convolution import CASES, GATHERS, OUTERS, VECTORS, turn
from .tiles import NARROW, compile_kernels, poisoned, vector

GROUPED = {
    "two groups": Conv(6, 8, (5, 7), groups=2),
    "two groups, stride 2": Conv(6, 10, (8, 7), stride=(2, 2), groups=2, batch=9),
    "three groups of one channel, two filters each": Conv(3, 6, (5, 5), groups=3, batch=3),
    "depthwise": Conv(5, 5, (7, 6), groups=5, batch=3),
    "depthwise, stride 2": Conv(7, 7, (7, 6), stride=(2, 2), groups=7, batch=3, margin=1),
    "depthwise 1x1": Conv(6, 6, (3, 3), kernel=(1, 1), padding=(0, 0), groups=6, batch=3),
    "grouped 1x1": Conv(8, 12, (4, 5), kernel=(1, 1), padding=(0, 0), groups=4, batch=3),
    "depthwise (3, 1), dilation 2": Conv(4, 4, (8, 5), kernel=(3, 1), padding=(2, 0), dilation=(2, 1), groups=4),
}
LAYERS = {
    **CASES,
    "filters and channels that no block divides": Conv(5, 7, (5, 6), batch=3),
    "one filter": Conv(3, 1, (4, 5), batch=3),
    "1x1, many channels": Conv(37, 6, (3, 2), kernel=(1, 1), padding=(0, 0), batch=3),
    **GROUPED,
}
BLOCKS = (4, 3, 1)


def check(conv: Conv, bits: int, dtype: str, blocks: tuple, gathers: tuple, outers: tuple, opt_level: int = 0) -> None:
    """All three kernels with every block of filters and every set of knobs."""
    vec = vector(bits, dtype)
    g, data = conv.geometry(vec), Data.make(conv, vec)
    made = {}
    for block in blocks:
        for k in gathers:
            made["forward", block, k] = dense_gather.forward(g, block, k)
            made["backward_data", block, k] = dense_gather.backward_data(g, block, k)
        for k in outers:
            made["backward_weight", block, k] = dense_gradient.dense(g, block, k)
    weight = data.weight_tensor()
    for what, kernel in compile_kernels(made, opt_level).items():
        if what[0] == "forward":
            y = y_buffer(g)
            kernel(data.x, weight, y)
            data.check_y(str(what), y)
        elif what[0] == "backward_data":
            dx = dx_buffer(g)
            kernel(data.dy, weight, dx)
            data.check_dx(str(what), dx)
        else:
            dw, work = poisoned(conv.weight_shape, dtype), poisoned((data.weight.size, vec.lanes), dtype)
            kernel(data.x, data.dy, dw, work)
            data.check(str(what), dw.numpy(), data.dw_ref)


# What other layers have too: these are slow.
LIKE_OTHERS = ("3x3, asymmetric padding", "stride 2", "1x1", "5x5", "(1, 3), padding (0, 1)", "(1, 3), stride (2, 1)",
               "dilation 2", "dilation (2, 1), stride (2, 1)", "plane smaller than the kernel")  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LIKE_OTHERS else ()) for name in LAYERS]
)
def test_layer(name: str) -> None:
    number = list(LAYERS).index(name)
    bits, dtype = VECTORS[number % len(VECTORS)]
    check(LAYERS[name], bits, dtype, turn(BLOCKS, number, 1), turn(GATHERS, number, 1), turn(OUTERS, number, 1))


@pytest.mark.parametrize("name", ["stride 2", "depthwise"])
def test_optimised_code(name: str) -> None:
    check(LAYERS[name], NARROW, "float32", (4,), (GatherKnobs(3, 1, True),), (WeightGradientKnobs(),), opt_level=3)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "dtype"), VECTORS)
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_with_every_knob(name: str, bits: int, dtype: str) -> None:
    check(LAYERS[name], bits, dtype, BLOCKS, GATHERS, OUTERS)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_optimised(name: str, dtype: str) -> None:
    check(LAYERS[name], NARROW, dtype, (4,), GATHERS[:3], OUTERS[:2], opt_level=3)
