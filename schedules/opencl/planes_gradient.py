"""Backward-weight of structured sparsity on OpenCL: the shorter dense weight gradient over kept channels or filters."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Expr
from . import weight_gradient
from .dense_gradient import Places
from .emit import cell
from .planes import when
from .quotient import quotient
from .weight_gradient import (
    MOST_FILTERS,
    MOST_SUMS,
    Operands,
    WeightGradientKnobs,
    cover,
    outer_products,
    rounds,
    sparse,
)


def kept(layer: LayerProblem, block: int, knobs: WeightGradientKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """dV of kept channels [kept, F, kh, kw] or kept filters [kept, C, kh, kw]: `entries` places x `block` filters of
    sums in registers.

    Arguments: X, dY, planes, entries, dV [capacity, unit_size] and DL (see `workspace`).
    """
    return (_kept_channels if layer.sparse.kind.axis == 1 else _kept_filters)(layer, block, knobs, dtypes)


def _kept_channels(
    layer: LayerProblem, block: int, knobs: WeightGradientKnobs, dtypes: dict[str, str]
) -> tirx.PrimFunc:
    g = layer.geometry
    places, filters = Places.cut(g, layer.sparse.capacity, knobs.entries), cover(g.filters, block)
    several, most, past = places.channels.size, places.size * filters.size, knobs.shares * knobs.spread

    def body(o: Operands) -> None:
        planes, entries = o.indices
        count = T.Bind(entries[0])
        units = T.Bind(T.floordiv(count + (several - 1), several) * places.taps)
        first = filters.start(o.block[1])
        dy = o.stream(first * g.dy.size, [b * g.dy.size for b in range(filters.size)])
        with rounds(units, knobs.shares, o.block[0], knobs.spread) as done:
            sums = o.sums()
            with when(done + o.share < units):
                unit = places.unit(cell(done + o.share)[0], past)
                # Past the last kept channel it is added up again, and its sums are dropped.
                channels = [planes[T.min(unit.part * several + c, count - 1)] for c in range(several)]
                x = [o.stream(channel * g.x.size + unit.offset, places.offsets()) for channel in channels]
                outer_products(g, o, x, [dy], sums)

            def put(share: Expr, number: Expr, value: Expr) -> None:
                unit, (place, b) = places.unit(cell(done + share)[0], past), quotient(number, filters.size, most)
                c, tap, fresh = unit.place(place)
                j = unit.part * several + c
                with when(done + share < units, j < count, filters.fresh(o.block[1], b), *fresh):
                    o.put(j * layer.sparse.unit_size + (first + b) * g.taps + tap, value)

            o.add_up(sums, put)

    blocks = (knobs.spread, filters.count)
    return sparse("planes_backward_weight", layer, knobs, dtypes, blocks, most, body)


def _kept_filters(layer: LayerProblem, block: int, knobs: WeightGradientKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    g = layer.geometry
    places, filters = Places.cut(g, g.channels, knobs.entries), cover(layer.sparse.capacity, block)
    channels, most, past = places.channels, places.size * filters.size, knobs.shares * knobs.spread

    def body(o: Operands) -> None:
        planes, entries = o.indices
        count, first = T.Bind(entries[0]), o.block[1] * filters.size
        units = T.Bind(T.Select(first < count, T.int32(places.units), T.int32(0)))
        # Past the last kept filter it is added up again, and its sums are dropped.
        kept = [planes[T.max(T.min(first + b, count - 1), 0)] for b in range(filters.size)]
        dys = [o.stream(plane * g.dy.size) for plane in kept]
        with rounds(units, knobs.shares, o.block[0], knobs.spread) as done:
            sums = o.sums()
            with when(done + o.share < units):
                unit = places.unit(cell(done + o.share)[0], past)
                offsets = [c * g.x.size + offset for c in range(channels.size) for offset in places.offsets()]
                x = o.stream(channels.start(unit.part) * g.x.size + unit.offset, offsets)
                outer_products(g, o, [x], dys, sums)

            def put(share: Expr, number: Expr, value: Expr) -> None:
                unit, (place, b) = places.unit(cell(done + share)[0], past), quotient(number, filters.size, most)
                c, tap, fresh = unit.place(place)
                with when(done + share < units, first + b < count, channels.fresh(unit.part, c), *fresh):
                    o.put((first + b) * layer.sparse.unit_size + (channels.start(unit.part) + c) * g.taps + tap, value)

            o.add_up(sums, put)

    blocks = (knobs.spread, filters.count)
    return sparse("planes_backward_weight", layer, knobs, dtypes, blocks, most, body)


def workspace(layer: LayerProblem, knobs: WeightGradientKnobs) -> tuple[int, int] | None:
    """Shape of DL [splits, capacity * unit_size]; None: the kernel has no such argument."""
    return weight_gradient.workspace(knobs, layer.sparse.capacity * layer.sparse.unit_size)


def default_block(layer: LayerProblem) -> int:
    """Filters of an item."""
    return cover(_filters(layer), MOST_FILTERS).size


def default_knobs(device: OpenClProfile, layer: LayerProblem) -> WeightGradientKnobs:
    """Knobs for blocks of `default_block` filters."""
    g, block = layer.geometry, default_block(layer)
    knobs = WeightGradientKnobs(entries=MOST_SUMS // block)
    places = Places.cut(g, layer.sparse.capacity if layer.sparse.kind.axis == 1 else g.channels, knobs.entries)
    rows = cover(_filters(layer), block).count
    return weight_gradient.fit(device, g, knobs, places.size * block, places.units, rows)


def _filters(layer: LayerProblem) -> int:
    """Filters whose gradient there is, at most."""
    return layer.geometry.filters if layer.sparse.kind.axis == 1 else layer.sparse.capacity
