"""Dense, grouped and depthwise forward and backward-data on OpenCL against float64 ones, over layers, knobs and batch
lanes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mest_compiler.schedules.opencl import dense_gather
from mest_compiler.schedules.opencl.dense_gather import runs
from mest_compiler.schedules.opencl.emit import Vec
from mest_compiler.schedules.opencl.gather import GatherKnobs, quotient

from ..convolutions import Conv, Data, dx_buffer, y_buffer
from ..test_dense_convolution import LAYERS
from .gathers import KNOBS, VECTORS
from .launching import compile_kernels

BIG = {
    "a loop over kernel rows": Conv(3, 6, (15, 14), kernel=(7, 7), stride=(2, 2), padding=(3, 3), batch=3),
    "a loop over dilated kernel rows": Conv(2, 4, (19, 12), (9, 5), (2, 3), (4, 4), (3, 1), batch=3),
}
SOME = (
    "3x3, odd plane", "stride (2, 1)", "two groups, stride 2", "depthwise", "one filter",
    "filters and channels that no block divides", "stride beyond the kernel",
)  # fmt: skip


def check(conv: Conv, vec: Vec, knobs: Sequence[GatherKnobs]) -> None:
    """Both kernels with every set of knobs."""
    g, data = conv.geometry(vec), Data.make(conv, vec)
    made = {("forward", k): dense_gather.forward(g, k.outputs, k) for k in knobs}
    made |= {("backward_data", k): dense_gather.backward_data(g, k.outputs, k) for k in knobs}
    weight = data.weight_tensor()
    for what, kernel in compile_kernels(made).items():
        if what[0] == "forward":
            y = y_buffer(g)
            kernel(data.x, weight, y)
            data.check_y(str(what), y)
        else:
            dx = dx_buffer(g)
            kernel(data.dy, weight, dx)
            data.check_dx(str(what), dx)


@pytest.mark.parametrize("name", SOME)
def test_layer(name: str) -> None:
    number = SOME.index(name)
    check(LAYERS[name], VECTORS[number % len(VECTORS)], [KNOBS[number % len(KNOBS)]])


def test_a_loop_over_kernel_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_gather, "MOST_UPDATES", 20)
    check(LAYERS["stride (3, 2)"], VECTORS[0], [GatherKnobs(rows=1, cols=4, unroll=2, outputs=2)])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LAYERS, *BIG])
def test_every_layer_with_every_knob(name: str) -> None:
    vec = VECTORS[list(LAYERS | BIG).index(name) % len(VECTORS)]
    check((LAYERS | BIG)[name], vec, KNOBS)


@pytest.mark.parametrize("conv", [*BIG.values(), Conv(3, 4, (9, 9), (5, 4), (3, 2), (2, 1), (2, 3))])
def test_runs_cover_every_tap(conv: Conv) -> None:
    g = conv.geometry(VECTORS[0])
    for _, taps in [*dense_gather.forward_taps(g), *g.backward_grids]:
        for most in (1, 1000):
            turns = [(run, i) for run in runs(taps, g.kernel[1], most) for i in range(run.count)]
            found = {t + i * run.step: o + i * run.offset for run, i in turns for t, o in run.taps.items()}
            assert found == taps


def test_quotients_are_exact() -> None:
    for divisor in (1, 2, 3, 5, 7, 12, 49, 100):
        for count in (1, 2, 11, 50, 6000):
            for number in {0, 1, count // 2, count - 1, *range(0, count, divisor), *range(divisor - 1, count, divisor)}:
                if number < count:
                    assert int(quotient(number, divisor, count)) == number // divisor
