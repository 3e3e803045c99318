"""Forward and backward-data of dense convolutions, grouped and depthwise ones among them, on OpenCL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import ConvGeometry, Subgrid

from ..emit import Buffer, Expr, function
from .body_gather import shared_loads
from .emit import QUAD, flat
from .gather import GatherKnobs, Item, Shape, over_items, row_and_part
from .weights import Weights

MOST_UPDATES = 320  # updates of a quad in a loop's body, which a phone's instruction cache holds

Taps = dict[int, int]
"""Kernel place -> its offset in the input, in pixels."""


@dataclass(frozen=True)
class Run:
    """`count` times the same taps, `step` places and `offset` pixels further each time."""

    count: int
    step: int
    offset: int
    taps: Taps


def runs(taps: Taps, width: int, most: int) -> list[Run]:
    """All taps as one run, or, where more than `most`, each kernel row as a turn of one loop (rows of `width`)."""
    rows: dict[int, Taps] = {}
    for tap, offset in taps.items():
        rows.setdefault(tap // width, {})[tap] = offset
    if len(taps) <= most or len(rows) == 1:
        return [Run(1, 0, 0, taps)]
    first, second = list(rows.values())[:2]
    a, b = min(first), min(second)
    # A kernel's rows that reach a class of pixels, and their offsets, are evenly spaced.
    return [Run(len(rows), b - a, second[b] - first[a], first)]


def multiply(
    item: Item, x: Buffer, acc: list[Buffer], turns: list[Run], sources: list[Expr],
    weights: Callable[[Expr, bool], Callable[[int, int, int], Expr]],
) -> None:  # fmt: skip
    """acc += weights x input planes; every quad of the input is loaded once for all output planes and taps it feeds.

    sources: first pixel of each input plane. weights(how many kernel places further, whether there is such a shift):
    gives the weight of (output plane, number of the source, tap).
    """
    vec, n = item.vec, len(item.reads)

    def add(run: Run, turn: Expr) -> None:
        weight = weights(turn * run.step, run.count > 1)
        for j, source in enumerate(sources):
            at = item.at(source + turn * run.offset)
            for offset, uses in shared_loads(tuple(run.taps.items()), item.reads).items():
                loaded = T.Bind(item.load(x, at, offset))
                for tap, i in uses:
                    for b in range(len(acc) // n):
                        vec.fma(acc[b * n + i], vec.splat(weight(b, j, tap)), loaded)

    for run in turns:
        if run.count == 1:
            add(run, T.int32(0))
        else:
            with T.serial(run.count) as turn:
                add(run, turn)


def _gather(
    name: str, shape: Shape, grids: list[tuple[Subgrid, Taps]], block: int, weight_strides: tuple[int, int],
    knobs: GatherKnobs,
) -> tirx.PrimFunc:  # fmt: skip
    """`weight_strides`: elements of W between output planes and between input planes of a convolution group."""
    g, vec = shape.geometry, shape.vec
    per_out, per_in = shape.targets // g.groups, shape.sources // g.groups
    out_stride, in_stride = weight_strides
    weight_group = g.filters // g.groups * g.columns  # elements of W of a convolution group
    block = min(block, per_out)
    parts = -(-per_out // block)
    inputs = knobs.unroll if per_in % knobs.unroll == 0 else 1
    steps = (weight_group * (g.groups > 1), out_stride * (block if per_out % block == 0 else 1), in_stride * inputs)
    whole = all(step % QUAD == 0 for step in steps)

    def emit() -> None:
        x = shape.input()
        w = T.arg("W", T.buffer((g.filters, g.channels // g.groups, *g.kernel), g.dtype))
        y = shape.output()
        w, x, y = flat(w), flat(x), flat(y)

        def body(item: Item) -> None:
            taps, acc, n = grids[item.number][1], item.zeros(block), len(item.reads)
            group, part = row_and_part(item.row, parts, g.groups * parts)
            # Where blocks do not come out even, the last two compute the same numbers of the planes they share.
            row = T.min(part * block, per_out - block) if per_out % block else part * block
            first, of_group = group * weight_group + row * out_stride, group * per_in
            turns = runs(taps, g.kernel[1], MOST_UPDATES // (len(acc) * inputs))
            if taps:
                with T.serial(per_in // inputs) as c:

                    def weights(shift: Expr, shifted: bool) -> Callable[[int, int, int], Expr]:
                        start = first + c * (inputs * in_stride) + shift
                        found = Weights(vec, w, start, whole and not shifted)
                        return lambda b, j, tap: found[b * out_stride + j * in_stride + tap]

                    sources = [(of_group + c * inputs + j) * shape.source.size for j in range(inputs)]
                    multiply(item, x, acc, turns, sources, weights)
            for b in range(block):
                plane = group * per_out + row + b
                item.store(y, plane, [vec.get(r) for r in acc[b * n : b * n + n]], shape.target.size)

        over_items(shape, [grid for grid, _ in grids], g.groups * parts, knobs, body)

    return function(name, emit)


def forward_taps(g: ConvGeometry) -> list[tuple[Subgrid, Taps]]:
    """The one grid of a forward convolution and the offset of every kernel place."""
    return [(g.forward_grid, {t: g.tap_offset(t) for t in range(g.taps)})]


def forward(g: ConvGeometry, block: int, knobs: GatherKnobs) -> tirx.PrimFunc:
    """Y = conv(X, W) with W as PyTorch stores it; register tiles of `block` filters. Arguments: X, W, Y."""
    return _gather("dense_forward", Shape.forward(g), forward_taps(g), block, (g.columns, g.taps), knobs)


def backward_data(g: ConvGeometry, block: int, knobs: GatherKnobs) -> tirx.PrimFunc:
    """dX of the same convolution; register tiles of `block` channels. Arguments: dY, W, dX."""
    return _gather("dense_backward_data", Shape.backward(g), list(g.backward_grids), block, (g.taps, g.columns), knobs)
