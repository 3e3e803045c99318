"""Backward-weight of dense convolutions, grouped and depthwise ones among them, on OpenCL."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.kernels.geometry import ConvGeometry

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
    kernel,
    outer_products,
    rounds,
)


@dataclass(frozen=True)
class Places:
    """How all places of a filter, (channel, kernel row, kernel column), are cut for items: a unit is a part of each."""

    g: ConvGeometry
    channels: Cover
    rows: Cover
    cols: Cover

    @classmethod
    def cut(cls, g: ConvGeometry, channels: int, entries: int) -> Places:
        """Units of `entries` places at most: of a kernel's row first, which share most of their input."""
        cols = cover(g.kernel[1], entries)
        rows = cover(g.kernel[0], max(1, entries // cols.size))
        return cls(g, cover(channels, max(1, entries // (cols.size * rows.size))), rows, cols)

    @property
    def taps(self) -> int:
        """Units of a part of the channels."""
        return self.rows.count * self.cols.count

    @property
    def size(self) -> int:
        """Places of a unit."""
        return self.channels.size * self.rows.size * self.cols.size

    def offsets(self) -> list[int]:
        """Of a channel's places in x, behind the first one, row by row."""
        g = self.g
        return [g.tap_offset(r * g.kernel[1] + c) for r in range(self.rows.size) for c in range(self.cols.size)]

    @property
    def units(self) -> int:
        """All units."""
        return self.channels.count * self.taps

    def unit(self, number: Expr, past: int) -> Unit:
        """Unit number `number`, or something up to `past` units behind the last one."""
        part, tap = quotient(number, self.taps, self.units + past)
        return Unit(self, part, *quotient(tap, self.cols.count, self.taps))


@dataclass(frozen=True)
class Unit:
    """A part of the channels, of a kernel's rows and of its columns."""

    places: Places
    part: Expr
    row: Expr
    col: Expr

    @property
    def offset(self) -> Expr:
        """Of its first place in a plane of x."""
        p, g = self.places, self.places.g
        return p.rows.start(self.row) * (g.dilation[0] * g.x.cols) + p.cols.start(self.col) * g.dilation[1]

    def place(self, number: Expr) -> tuple[Expr, Expr, list[Expr]]:
        """(which of its channels, kernel place, conditions that no other unit has it) of one of its places."""
        p = self.places
        above, c = quotient(number, p.cols.size, p.size)
        channel, r = quotient(above, p.rows.size, p.size)
        tap = (p.rows.start(self.row) + r) * p.g.kernel[1] + p.cols.start(self.col) + c
        return channel, tap, [p.rows.fresh(self.row, r), p.cols.fresh(self.col, c)]


def _cuts(g: ConvGeometry, block: int, knobs: WeightGradientKnobs) -> tuple[Cover, Places]:
    """Filters of a convolution group, and the places of one of them."""
    return cover(g.filters // g.groups, block), Places.cut(g, g.channels // g.groups, knobs.entries)


def dense(g: ConvGeometry, block: int, knobs: WeightGradientKnobs) -> tirx.PrimFunc:
    """dW of a dense convolution, `entries` places x `block` filters of sums in registers.

    Arguments: X, dY, dW and DL (see `workspace`).
    """
    per_in, per_out = g.channels // g.groups, g.filters // g.groups
    filters, places = _cuts(g, block, knobs)
    channels, count, past = places.channels, places.size * filters.size, knobs.shares * knobs.spread

    def body(o: Operands) -> None:
        group, filter_part = quotient(o.block[1], filters.count, g.groups * filters.count)
        first = group * per_out + filters.start(filter_part)
        dy = o.stream(first * g.dy.size, [b * g.dy.size for b in range(filters.size)])
        with rounds(T.int32(places.units), knobs.shares, o.block[0], knobs.spread) as done:
            sums = o.sums()
            with when(done + o.share < places.units):
                unit = places.unit(cell(done + o.share)[0], past)
                channel = group * per_in + channels.start(unit.part)
                offsets = [c * g.x.size + offset for c in range(channels.size) for offset in places.offsets()]
                outer_products(g, o, [o.stream(channel * g.x.size + unit.offset, offsets)], [dy], sums)

            def put(share: Expr, number: Expr, value: Expr) -> None:
                unit, (place, b) = places.unit(cell(done + share)[0], past), quotient(number, filters.size, count)
                c, tap, fresh = unit.place(place)
                with when(
                    done + share < places.units, filters.fresh(filter_part, b), channels.fresh(unit.part, c), *fresh
                ):
                    o.put(((first + b) * per_in + channels.start(unit.part) + c) * g.taps + tap, value)

            o.add_up(sums, put)

    shape, blocks = (g.filters, per_in, *g.kernel), (knobs.spread, g.groups * filters.count)
    return kernel("dense_backward_weight", g, knobs, {}, shape, blocks, count, body)


def workspace(g: ConvGeometry, knobs: WeightGradientKnobs) -> tuple[int, int] | None:
    """Shape of DL [splits, F*columns]; None: the kernel has no such argument."""
    return weight_gradient.workspace(knobs, g.filters * g.columns)


def default_block(g: ConvGeometry) -> int:
    """Filters of an item."""
    return cover(g.filters // g.groups, MOST_FILTERS).size


def default_knobs(device: OpenClProfile, g: ConvGeometry) -> WeightGradientKnobs:
    """Knobs for blocks of `default_block` filters."""
    knobs = WeightGradientKnobs(entries=MOST_SUMS // default_block(g))
    filters, places = _cuts(g, default_block(g), knobs)
    return weight_gradient.fit(device, g, knobs, places.size * filters.size, places.units, g.groups * filters.count)
