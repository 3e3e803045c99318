"""Forward and backward-data of structured sparsity: shorter dense convolutions over the kept channels or filters.

Where the kept planes are the input's, the loop over input planes runs through their list; where they are the output's,
the loop over output planes does, and the planes of removed ones are zeroed.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.fusion import ALONE, Fused
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Buffer, Expr, Index, Indices, blocks, each, function
from .emit import Vec, flat_any
from .gather import GatherKnobs, Group, Input, Output, Shape, group_of, over_pixels, register_tile, update
from .source import Tile


def _arguments(
    layer: LayerProblem, shape: Shape, dtypes: dict[str, str], fused: Fused
) -> tuple[Input, Output, Index, Expr, Buffer]:
    """(X, Y, kept planes, how many, flat V)."""
    g = shape.geometry
    x = Input(shape, fused)
    vh, indices = T.arg("V", T.handle()), Indices(dtypes)
    y = Output(shape, fused, x)
    planes, entries = indices.match()
    values = flat_any(vh, layer.sparse.unit_size, g.dtype)
    return x, y, planes, T.Bind(entries[0]), values


def _taps(
    vec: Vec, acc: list[Buffer], at: Buffer, pixels: list[int], taps: dict[int, int], weight: Buffer, stride: int,
    n: int,
) -> None:  # fmt: skip
    for tap, offset in taps.items():
        update(vec, acc, at, [p + offset for p in pixels], [weight[b * stride + tap] for b in range(n)])


def _kept_inputs(
    name: str, shape: Shape, block: int, layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str],
    fused: Fused,
) -> tirx.PrimFunc:  # fmt: skip
    """V [kept inputs, outputs, taps]."""
    g, vec, taps_of = shape.geometry, shape.vec, layer.geometry.taps

    def emit() -> None:
        x, y, planes, kept, values = _arguments(layer, shape, dtypes, fused)

        def run(source, acc, pixels, taps, row, n, lo, hi) -> None:
            with T.serial(hi - lo) as k:
                at = vec.pointer(source, planes[lo + k] * (shape.source.size * g.lanes))
                weight = vec.pointer(values, (lo + k) * (shape.targets * taps_of) + row * taps_of)
                _taps(vec, acc, at, pixels, taps, weight, taps_of, n)

        def one(x_tile: Tile, tile: Expr) -> None:
            y.begin(tile)
            for grid, taps in shape.grids:

                def rows(inner: Callable, _: Callable) -> None:
                    with T.serial(knobs.groups) as q:
                        lo = T.Bind(T.truncdiv(q * kept, knobs.groups))
                        hi = T.Bind(T.truncdiv((q + 1) * kept, knobs.groups))
                        for part in blocks(shape.targets, block):
                            with each(part) as row:
                                inner(q, lo, hi, row, part.size)

                def body(at, size, q, lo, hi, row, n, grid=grid, taps=taps) -> None:
                    register_tile(
                        shape, x_tile, y, grid, tile, at, size, [row + b for b in range(n)],
                        group_of(q, knobs.groups),
                        lambda source, acc, pixels: run(source, acc, pixels, taps, row, n, lo, hi),
                    )  # fmt: skip

                over_pixels(grid, knobs, rows, body)

        x.each(one)

    return function(fused.named(name), emit)


def _kept_outputs(
    name: str, shape: Shape, block: int, layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str],
    fused: Fused,
) -> tirx.PrimFunc:  # fmt: skip
    """V [kept outputs, inputs, taps]."""
    g, vec, taps_of = shape.geometry, shape.vec, layer.geometry.taps
    stride, target = shape.sources * taps_of, shape.target
    chunk = -(-shape.sources // knobs.groups)

    def emit() -> None:
        x, y, planes, kept, values = _arguments(layer, shape, dtypes, fused)

        def run(source, acc, pixels, taps, j, n, start, count) -> None:
            with T.serial(count) as c:
                at = vec.pointer(source, (start + c) * (shape.source.size * g.lanes))
                weight = vec.pointer(values, j * stride + (start + c) * taps_of)
                _taps(vec, acc, at, pixels, taps, weight, stride, n)

        def one(x_tile: Tile, tile: Expr) -> None:
            y.begin(tile)
            with T.serial(shape.targets - kept) as k:
                plane = vec.pointer(y.buffer, tile, planes[kept + k] * target.size + target.at(0, 0), 0)
                with T.serial(target.height) as r, T.serial(target.width) as c:
                    vec.store(plane, vec.const(0), r * target.cols + c)
            for grid, taps in shape.grids:

                def rows(inner: Callable, _: Callable) -> None:
                    for part in blocks(shape.sources, chunk):
                        with each(part) as start:
                            whole = T.Bind(T.truncdiv(kept, block))
                            with T.serial(whole) as i:
                                inner(start, part.size, i * block, block)
                            with T.serial(kept - whole * block) as i:
                                inner(start, part.size, whole * block + i, 1)

                def body(at, size, start, count, j, n, grid=grid, taps=taps) -> None:
                    group = Group(start == 0, start == shape.sources - count) if chunk < shape.sources else None
                    register_tile(
                        shape, x_tile, y, grid, tile, at, size, [T.Bind(planes[j + b]) for b in range(n)],
                        group,
                        lambda source, acc, pixels: run(source, acc, pixels, taps, j, n, start, count),
                    )  # fmt: skip

                over_pixels(grid, knobs, rows, body)

        x.each(one)

    return function(fused.named(name), emit)


def forward(
    layer: LayerProblem, block: int, knobs: GatherKnobs, dtypes: dict[str, str], fused: Fused = ALONE
) -> tirx.PrimFunc:
    """Y = conv(X, W) with V the kept channels [kept, F, kh, kw] or filters [kept, C, kh, kw].

    Arguments: X, V [capacity, unit_size], planes, entries, Y; register tiles of `block` filters.
    """
    g = layer.geometry
    make = _kept_inputs if layer.sparse.kind.axis == 1 else _kept_outputs
    return make("planes_forward", Shape.forward(g), block, layer, knobs, dtypes, fused)


def backward_data(
    layer: LayerProblem, block: int, knobs: GatherKnobs, dtypes: dict[str, str], fused: Fused = ALONE
) -> tirx.PrimFunc:
    """dX of the same; zero in removed channels. Arguments: dY, V, planes, entries, dX."""
    g = layer.geometry
    make = _kept_outputs if layer.sparse.kind.axis == 1 else _kept_inputs
    return make("planes_backward_data", Shape.backward(g), block, layer, knobs, dtypes, fused)
