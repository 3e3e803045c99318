"""Backward-weight through straight-line bodies on OpenCL: patterns, and the kept places of a kernel's row.

An item holds a tile of dY, and loads every vector of the input once for all places of an entry that need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.bodies import Bodies, Body
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Buffer, Expr, tile_shape
from . import weight_gradient
from .body_gather import shared_loads
from .emit import cell
from .planes import when
from .quotient import quotient
from .weight_gradient import Cover, Operands, WeightGradientKnobs, rounds, sparse

PIXELS = 8  # of dY that an item holds


@dataclass(frozen=True)
class Runs:
    """The entries of a row: a run for each body, cut into units of `together` entries that one item works on.

    ``bounds``: of the runs; ``starts``: number of each run's first unit, and of all units.
    """

    together: int
    sizes: tuple[int, ...]
    bounds: list[Expr]
    starts: list[Expr]

    @classmethod
    def read(cls, bodies: Bodies, together: int, ptr, row: Expr) -> Runs:
        """From the row pointers."""
        count = len(bodies.forward)
        bounds = [T.Bind(ptr[row * count + b]) for b in range(count + 1)]
        starts = [T.int32(0)]
        for lo, hi in pairwise(bounds):
            units = hi - lo if together == 1 else T.floordiv(hi - lo + (together - 1), together)
            starts.append(cell(starts[-1] + units)[0])
        return cls(together, bodies.sizes, bounds, starts)

    def unit(self, number: Expr) -> Unit:
        """Unit `number`, which must be one of them."""
        body, first, end, size = (cell(T.int32(0)) for _ in range(4))
        for b, start in enumerate(self.starts[:-1]):
            # The last run that starts there or before: those before it at the same place are empty.
            with T.If(number >= start), T.Then():
                T.buffer_store(body, T.int32(b), [0])
                T.buffer_store(first, self.bounds[b] + (number - start) * self.together, [0])
                T.buffer_store(end, self.bounds[b + 1], [0])
                T.buffer_store(size, T.int32(self.sizes[b]), [0])
        return Unit(body[0], first[0], end[0], size[0])


@dataclass(frozen=True)
class Unit:
    """Entries `first`.. of the run of `body`, which ends at `end`; each has `size` values."""

    body: Expr
    first: Expr
    end: Expr
    size: Expr


def dots(layer: LayerProblem, bodies: Bodies, knobs: WeightGradientKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """Dot products with `pixels` pixels of dY, of `entries` entries an item.

    Arguments: X, dY, offset, pointers [F*bodies+1], first, row, entries, dV [capacity, unit_size] and DL (see
    `workspace`).
    """
    g, most, together = layer.geometry, max(bodies.sizes), knobs.entries

    def body(o: Operands) -> None:
        offsets, ptr, places, order, _ = o.indices
        runs = Runs.read(bodies, together, ptr, o.block[1])
        dy = cell(order[o.block[1]] * (g.dy.size * o.vec.quads) + o.lane)[0]
        total = runs.starts[-1]
        with rounds(total, knobs.shares, o.block[0], knobs.spread) as done:
            sums = o.sums()
            with when(done + o.share < total):
                unit = runs.unit(done + o.share)
                # Past the run's end an item adds up its last entry again, and drops the sums.
                xs = [
                    cell(offsets[T.min(unit.first + i, unit.end - 1)] * o.vec.quads + o.lane)[0]
                    for i in range(together)
                ]
                for number, one in enumerate(bodies.forward):
                    with T.If(unit.body == number), T.Then():
                        _add(g, o, one, xs, dy, [sums[i * most : (i + 1) * most] for i in range(together)])

            def put(share: Expr, number: Expr, value: Expr) -> None:
                i, v = quotient(number, most, together * most)
                with when(done + share < total):
                    unit = runs.unit(done + share)
                    entry = cell(unit.first + i)[0]
                    with when(entry < unit.end, True if len(set(bodies.sizes)) == 1 else v < unit.size):
                        o.put(places[entry] + v, value)

            o.add_up(sums, put)

    blocks = (knobs.spread, g.filters)
    return sparse("body_backward_weight", layer, knobs, dtypes, blocks, together * most, body)


def _add(g: ConvGeometry, o: Operands, body: Body, xs: list[Expr], dy: Expr, sums: list[list[Buffer]]) -> None:
    """sums[entry][value] += the products of one body, over the item's pixels."""
    vec, grid, quads = o.vec, g.forward_grid, o.vec.quads
    height, width = tile_shape(g.dy.height, g.dy.width, o.knobs.pixels)
    bands, cols = Cover(g.dy.height, height), Cover(g.dy.width, width)
    pixels = [(r, c) for r in range(height) for c in range(width)]
    uses = shared_loads(body.terms, [r * grid.in_row + c * grid.in_col for r, c in pixels])
    with o.image_rows(g.tiles, bands.count) as (tile, band):
        h = bands.start(band)
        x_row = cell((tile * (g.channels * g.x.size) + h * grid.in_row + grid.in_base) * quads)[0]
        dy_row = cell((tile * (g.filters * g.dy.size) + h * g.dy.cols + g.dy.at(0, 0)) * quads + dy)[0]
        sources = [cell(x + x_row)[0] for x in xs]
        with T.serial(cols.count) as part:
            w = cols.start(part)
            d = []
            for r, c in pixels:
                value = vec.load(o.dy, dy_row + (w + r * g.dy.cols + c) * quads)
                left = [fresh for fresh in (bands.fresh(band, r), cols.fresh(part, c)) if fresh is not True]
                if left:  # a pixel that an earlier tile had counts nothing here
                    value = value * vec.splat(T.Cast(g.dtype, tirx.all(*left)))
                d.append(T.Bind(value))
            for source, values in zip(sources, sums, strict=True):
                for offset, pairs in uses.items():
                    x = T.Bind(vec.load(o.x, source + (w * grid.in_col + offset) * quads))
                    for v, i in pairs:
                        vec.fma(values[v], d[i], x)


def workspace(layer: LayerProblem, knobs: WeightGradientKnobs) -> tuple[int, int] | None:
    """Shape of DL [splits, capacity * unit_size]; None: the kernel has no such argument."""
    return weight_gradient.workspace(knobs, layer.sparse.capacity * layer.sparse.unit_size)


def default_knobs(device: OpenClProfile, layer: LayerProblem, bodies: Bodies, entries: int) -> WeightGradientKnobs:
    """Knobs for a layer of at most `entries` entries: the longest its index arrays can be."""
    g, knobs = layer.geometry, WeightGradientKnobs(entries=1, pixels=PIXELS)
    return weight_gradient.fit(device, g, knobs, max(bodies.sizes), max(1.0, entries / g.filters), g.filters)
