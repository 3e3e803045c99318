"""Backward-weight of structured sparsity: the shorter dense weight gradient over the kept channels or filters."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Buffer, Expr, Part, blocks, each, split
from .emit import Vec
from .weight_gradient import Operands, WeightGradientKnobs, band_steps, outer_products, sparse


def kept(
    layer: LayerProblem,
    block: int,
    knobs: WeightGradientKnobs,
    dtypes: dict[str, str],
    recompute: Normalisation | None = None,
) -> tirx.PrimFunc:
    """dV of kept channels [kept, F, kh, kw] or kept filters [kept, C, kh, kw]: `entries` places x `block` filters of
    sums in registers.

    Arguments: X, dY, planes, entries, dV [capacity, unit_size], DL [capacity * unit_size, L].
    """
    g, by_channel = layer.geometry, layer.sparse.kind.axis == 1
    vec, grid, steps = Vec(g.lanes, g.dtype), g.forward_grid, band_steps(layer.geometry)
    parts = [
        range(s, s + part.size)
        for part in blocks(g.taps, min(knobs.entries, g.taps))
        for s in range(part.start, part.start + part.size * part.count, part.size)
    ]

    def at(o: Operands, h: Expr, channel: Expr, filters: list[Expr]) -> tuple[Buffer, list[Buffer]]:
        """Pointers into X's plane of a channel and dY's planes of filters, at an image row."""
        source = vec.pointer(*o.x, channel * g.x.size + h * grid.in_row + grid.in_base, 0)
        corner = h * g.dy.cols + g.dy.at(0, 0)
        return source, [vec.pointer(o.dy, o.tile, f * g.dy.size + corner, 0) for f in filters]

    def update(o: Operands, rows: int, source: Buffer, dys: list[Buffer], spot: Expr, stride: int) -> None:
        """All places of one channel with some filters, whose sums stand `stride` apart from `spot` on."""
        target = vec.pointer(o.sums, spot, 0)
        for places in parts:
            sources = [vec.pointer(source, g.tap_offset(t) * g.lanes) for t in places]
            spots = [[b * stride + t for b in range(len(dys))] for t in places]
            outer_products(vec, sources, dys, target, spots, (rows, g.dy.width), steps)

    def over_channels(o: Operands, first: Expr, count: Expr) -> None:
        planes, _ = o.indices
        for band in split(g.dy.height, knobs.rows):
            with each(band) as h, T.serial(count) as r:
                j, channel = T.Bind(first + r), T.Bind(planes[first + r])
                for part in blocks(g.filters, block):
                    with each(part) as f:
                        source, dys = at(o, h, channel, [f + b for b in range(part.size)])
                        update(o, band.size, source, dys, j * layer.sparse.unit_size + f * g.taps, g.taps)

    def over_filters(o: Operands, first: Expr, count: Expr) -> None:
        planes, _ = o.indices
        whole = T.Bind(T.truncdiv(count, block))

        def some(band: Part, h: Expr, j: Expr, size: int) -> None:
            filters = [T.Bind(planes[j + b]) for b in range(size)]
            with T.serial(g.channels) as c:
                source, dys = at(o, h, c, filters)
                update(o, band.size, source, dys, j * layer.sparse.unit_size + c * g.taps, layer.sparse.unit_size)

        for band in split(g.dy.height, knobs.rows):
            with each(band) as h:
                with T.serial(whole) as i:
                    some(band, h, first + i * block, block)
                with T.serial(count - whole * block) as i:
                    some(band, h, first + whole * block + i, 1)

    body = over_channels if by_channel else over_filters
    return sparse(
        layer, knobs.chunks, dtypes, "planes_backward_weight", lambda indices: indices[-1][0], body, recompute
    )
