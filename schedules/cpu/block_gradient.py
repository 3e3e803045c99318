"""Backward-weight of block sparsity (m filters by n channels at one kernel place; (1, 1): unstructured)."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Expr, blocks, each, split, tree
from .emit import Vec
from .weight_gradient import (
    Held,
    Operands,
    WeightGradientKnobs,
    band_steps,
    neighbours,
    outer_products,
    over_held,
    sparse,
)

MOST_FILTERS = 4  # filters a register tile; a taller block is worked through in parts


def outer(
    layer: LayerProblem, knobs: WeightGradientKnobs, dtypes: dict[str, str], recompute: Normalisation | None = None
) -> tirx.PrimFunc:
    """Outer form: `entries` planes x up to four filters of sums in registers over a band of pixels.

    Arguments: X, dY, offset, pointers [rows*groups+1], row, entries, dV [capacity, n*m], DL [capacity*n*m, L].
    """
    g, kind, unit = layer.geometry, layer.sparse.kind, layer.sparse.unit_size
    vec, grid, steps = Vec(g.lanes, g.dtype), g.forward_grid, band_steps(layer.geometry)
    m, n = kind.filters, kind.channels
    together = max(1, knobs.entries // n)  # entries whose planes make up a register tile

    def body(o: Operands, first: Expr, count: Expr) -> None:
        offsets, ptr, order, _ = o.indices
        for band in split(g.dy.height, knobs.rows):
            with each(band) as h, T.serial(knobs.groups) as q, T.serial(count) as r:
                lo = T.Bind(ptr[(first + r) * knobs.groups + q])
                length = T.Bind(ptr[(first + r) * knobs.groups + q + 1] - lo)
                rounds = T.Bind(T.truncdiv(length, together))
                plane = T.Bind(order[first + r] * m)
                source = vec.pointer(*o.x, h * grid.in_row + grid.in_base, 0)

                def some(e: Expr, entries: int, plane=plane, source=source, band=band, h=h) -> None:
                    at = [vec.pointer(source, offsets[e + i] * g.lanes) for i in range(entries)]
                    planes = [(i, c) for i in range(entries) for c in range(n)]
                    target = vec.pointer(o.sums, e * unit, 0)
                    for filters in blocks(m, MOST_FILTERS):
                        for b in range(filters.start, filters.start + filters.size * filters.count, filters.size):
                            corner = (plane + b) * g.dy.size + h * g.dy.cols + g.dy.at(0, 0)
                            d = neighbours(vec, vec.pointer(o.dy, o.tile, corner, 0), filters.size, g.dy.size)
                            for k in range(0, len(planes), knobs.entries):
                                some_planes = planes[k : k + knobs.entries]
                                sources = [vec.pointer(at[i], c * g.x.size * g.lanes) for i, c in some_planes]
                                spots = [
                                    [i * unit + c * m + b + f for f in range(filters.size)] for i, c in some_planes
                                ]
                                outer_products(vec, sources, d, target, spots, (band.size, g.dy.width), steps)

                with T.serial(rounds) as k:
                    some(lo + k * together, together)
                with T.serial(length - rounds * together) as k:
                    some(lo + rounds * together + k, 1)

    return sparse(
        layer, knobs.chunks, dtypes, "block_backward_weight", lambda _: T.int32(layer.sparse.rows), body, recompute
    )


def dots(
    layer: LayerProblem, knobs: WeightGradientKnobs, dtypes: dict[str, str], recompute: Normalisation | None = None
) -> tirx.PrimFunc:
    """Dot form, for blocks of one filter: a tile of dY stays in registers, a value is a dot product with X. Arguments
    as `outer`."""
    g, n = layer.geometry, layer.sparse.kind.channels
    if layer.sparse.kind.filters != 1:
        raise ValueError("the dot form is for blocks of one filter")
    vec = Vec(g.lanes, g.dtype)

    def body(o: Operands, first: Expr, count: Expr) -> None:
        offsets, ptr, order, _ = o.indices

        def dots_of(held: Held) -> None:
            lo = T.Bind(ptr[held.row * knobs.groups + held.group])
            hi = T.Bind(ptr[held.row * knobs.groups + held.group + 1])
            with T.serial(hi - lo) as k:
                at = vec.pointer(held.source, offsets[lo + k] * g.lanes)
                for c in range(n):
                    p = vec.pointer(at, c * g.x.size * g.lanes) if c else at
                    spot = (lo + k) * n + c
                    chains = vec.registers(min(knobs.chains, len(held.dy)))
                    for i, register in enumerate(chains):
                        vec.set(register, vec.const(0) if i else o.sums[spot, vec.ramp()])
                    for i, (register, pixel) in enumerate(zip(held.dy, held.pixels, strict=True)):
                        vec.fma(chains[i % len(chains)], vec.get(register), vec.load(p, pixel))
                    T.buffer_store(o.sums, tree([vec.get(c) for c in chains]), [spot, vec.ramp()])

        over_held(g, knobs, o, order, first, count, dots_of)

    return sparse(
        layer, knobs.chunks, dtypes, "block_backward_weight", lambda _: T.int32(layer.sparse.rows), body, recompute
    )
