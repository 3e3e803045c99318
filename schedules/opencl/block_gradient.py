"""Backward-weight of block sparsity (m filters by n channels at one kernel place; (1, 1): unstructured)."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Expr
from . import weight_gradient
from .emit import cell
from .planes import when
from .quotient import quotient
from .weight_gradient import (
    MOST_FILTERS,
    MOST_SUMS,
    Cover,
    Operands,
    WeightGradientKnobs,
    cover,
    outer_products,
    rounds,
    sparse,
)

MOST_ENTRIES = 8  # of an item, for blocks of one weight


def _cuts(layer: LayerProblem, knobs: WeightGradientKnobs) -> tuple[Cover, Cover, int]:
    """(filters, channels) of a block that an item works on at once, and the entries of whose blocks it does."""
    kind = layer.sparse.kind
    channels = cover(kind.channels, max(1, knobs.entries))
    return cover(kind.filters, MOST_FILTERS), channels, max(1, knobs.entries // kind.channels)


def outer(layer: LayerProblem, knobs: WeightGradientKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """Outer products: `entries` planes x up to four filters of sums in registers; a work-group serves a row.

    Arguments: X, dY, offset, pointers [rows+1], row, entries, dV [capacity, n*m] and DL (see `workspace`).
    """
    g, m = layer.geometry, layer.sparse.kind.filters
    filters, channels, together = _cuts(layer, knobs)
    parts, count = filters.count * channels.count, together * channels.size * filters.size

    def body(o: Operands) -> None:
        offsets, ptr, order, _ = o.indices
        row, part = quotient(o.block[1], parts, layer.sparse.rows * parts)
        filter_part, channel_part = quotient(part, channels.count, parts)
        lo, hi = T.Bind(ptr[row]), T.Bind(ptr[row + 1])
        plane = order[row] * m + filters.start(filter_part)
        dy = o.stream(plane * g.dy.size, [b * g.dy.size for b in range(filters.size)])
        neighbours = [c * g.x.size for c in range(channels.size)]
        with rounds(hi - lo, knobs.shares * together, o.block[0], knobs.spread) as done:
            first, sums = cell(lo + done + o.share * together)[0], o.sums()
            with when(first < hi):
                # Past the row's end an item adds up its last entry again, and drops the sums.
                starts = [offsets[T.min(first + i, hi - 1)] for i in range(together)]
                begin = channels.start(channel_part) * g.x.size
                outer_products(g, o, [o.stream(at + begin, neighbours) for at in starts], [dy], sums)

            def put(share: Expr, number: Expr, value: Expr) -> None:
                above, b = quotient(number, filters.size, count)
                i, c = quotient(above, channels.size, count)
                entry = cell(lo + done + share * together + i)[0]
                with when(entry < hi, filters.fresh(filter_part, b), channels.fresh(channel_part, c)):
                    place = (channels.start(channel_part) + c) * m + filters.start(filter_part) + b
                    o.put(entry * layer.sparse.unit_size + place, value)

            o.add_up(sums, put)

    blocks = (knobs.spread, layer.sparse.rows * parts)
    return sparse("block_backward_weight", layer, knobs, dtypes, blocks, count, body)


def workspace(layer: LayerProblem, knobs: WeightGradientKnobs) -> tuple[int, int] | None:
    """Shape of DL [splits, capacity * n*m]; None: the kernel has no such argument."""
    return weight_gradient.workspace(knobs, layer.sparse.capacity * layer.sparse.unit_size)


def default_knobs(device: OpenClProfile, layer: LayerProblem) -> WeightGradientKnobs:
    """Knobs that should do well for rows of an average length."""
    entries = min(MOST_ENTRIES, MOST_SUMS // cover(layer.sparse.kind.filters, MOST_FILTERS).size)
    knobs = WeightGradientKnobs(entries=entries)
    filters, channels, together = _cuts(layer, knobs)
    count, rows = together * channels.size * filters.size, layer.sparse.rows * filters.count * channels.count
    units = max(1.0, layer.sparse.capacity / layer.sparse.rows / together)
    return weight_gradient.fit(device, layer.geometry, knobs, count, units, rows)
