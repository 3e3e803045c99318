"""Forward and backward-data of dense convolutions, grouped and depthwise ones among them, for any CPU."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.fusion import ALONE, Fused
from mest_compiler.kernels.geometry import ConvGeometry

from ..emit import Expr, Part, blocks, each, function
from .emit import flat
from .gather import GatherKnobs, Group, Input, Output, Shape, over_pixels, register_tile, update
from .source import Tile


def _gather(
    name: str,
    shape: Shape,
    block: int,
    weight_strides: tuple[int, int],
    knobs: GatherKnobs,
    fused: Fused,
) -> tirx.PrimFunc:
    """`weight_strides`: elements of W between output planes and between input planes of a convolution group."""
    g, vec = shape.geometry, shape.vec
    per_out, per_in = shape.targets // g.groups, shape.sources // g.groups
    out_stride, in_stride = weight_strides
    weight_group = g.filters // g.groups * g.columns  # elements of W of a convolution group
    chunk = -(-per_in // knobs.groups)

    def emit() -> None:
        x = Input(shape, fused)
        w = T.arg("W", T.buffer((g.filters, g.channels // g.groups, *g.kernel), g.dtype))
        y = Output(shape, fused, x)
        w = flat(w)

        def run(source, acc, pixels, taps, row, size, conv_group, planes: Part, start) -> None:
            base = conv_group * weight_group + row * out_stride
            with T.serial(planes.size) as c:
                plane = start + c
                at = vec.pointer(source, (conv_group * per_in + plane) * (shape.source.size * g.lanes))
                weight = vec.pointer(w, base + plane * in_stride)
                for tap, offset in taps.items():
                    scalars = [weight[b * out_stride + tap] for b in range(size)]
                    update(vec, acc, at, [p + offset for p in pixels], scalars)

        def one(x_tile: Tile, tile: Expr) -> None:
            y.begin(tile)
            for grid, taps in shape.grids:

                def rows(inner: Callable, _: Callable) -> None:
                    with T.serial(g.groups) as conv_group:
                        for planes in blocks(per_in, chunk):
                            with each(planes) as start:
                                for part in blocks(per_out, block):
                                    with each(part) as row:
                                        inner(planes, start, part.size, row, conv_group)

                def body(at, size, planes, start, count, row, conv_group, grid=grid, taps=taps) -> None:
                    outputs = [conv_group * per_out + row + b for b in range(count)]
                    group = Group(start == 0, start == per_in - planes.size) if chunk < per_in else None
                    register_tile(
                        shape, x_tile, y, grid, tile, at, size, outputs, group,
                        lambda source, acc, pixels: run(
                            source, acc, pixels, taps, row, count, conv_group, planes, start
                        ),
                    )  # fmt: skip

                over_pixels(grid, knobs, rows, body)

        x.each(one)

    return function(fused.named(name), emit)


def forward(g: ConvGeometry, block: int, knobs: GatherKnobs, fused: Fused = ALONE) -> tirx.PrimFunc:
    """Y = conv(X, W) with W as PyTorch stores it; register tiles of `block` filters. Arguments: X, W, Y."""
    return _gather("dense_forward", Shape.forward(g), block, (g.columns, g.taps), knobs, fused)


def backward_data(g: ConvGeometry, block: int, knobs: GatherKnobs, fused: Fused = ALONE) -> tirx.PrimFunc:
    """dX of the same convolution; register tiles of `block` channels. Arguments: dY, W, dX."""
    return _gather("dense_backward_data", Shape.backward(g), block, (g.taps, g.columns), knobs, fused)
