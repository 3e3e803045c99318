"""Work-items over the pixels of batch tiles: who takes which, where a pixel lies, sums over a work-group.

A work-group is quads x slots: neighbouring items hold the quads of a pixel, and a slot takes every slots-th pixel.
Pixels are counted over whole channels or activations, without borders, so that small planes fill work-groups too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Plane

from ..emit import Buffer, Expr
from .emit import QUAD, Vec, cell, flat, launch

GROUP = 256  # work-items of a work-group, at most: every device takes as many
AN_ITEM = 4  # pixels of a work-item in one pass over an activation, where that leaves
ENOUGH = 32  # work-groups: some for each compute unit of a phone


def slots(vec: Vec, pixels: int, group: int = GROUP) -> int:
    """Pixels that a work-group holds at once: a power of two, as many as fit and as there are."""
    found = 1
    while found < pixels and 2 * found * vec.quads <= group:
        found *= 2
    return found


@contextmanager
def when(*conditions: Expr | bool):
    """A block that runs where all conditions hold; those known now cost nothing."""
    left = [c for c in conditions if c is not True]
    if left:
        with T.If(left[0] if len(left) == 1 else tirx.all(*left)), T.Then():
            yield
    else:
        yield


def rounds(count: int, step: int, first: Expr, body: Callable[[list[Expr]], None], unroll: int = 1) -> None:
    """body([place, ...]) over first, first + step, ... below `count`, `unroll` places at once as long as every
    first < step has so many."""
    full = count // (step * unroll)
    if full:
        with T.serial(full) as i:
            body([i * (step * unroll) + k * step + first for k in range(unroll)])
    done = full * step * unroll
    while done < count:
        with when(True if count - done >= step else done + first < count):
            body([done + first])
        done += step


@dataclass(frozen=True)
class Image:
    """An activation of `planes` planes in all, read and written by the items that hold quad `lane` of each pixel."""

    vec: Any  # Vec; also of the int32 places of a pooling
    buffer: Buffer
    plane: Plane
    lane: Expr

    def quad(self, number: Expr, pixel: Expr) -> Expr:
        """Place of pixel height * width of plane `number`, counted without borders."""
        inside = pixel + self.plane.at(0, 0)
        if self.plane.border:
            inside = inside + T.floordiv(pixel, self.plane.width) * (2 * self.plane.border)
        return (number * self.plane.size + inside) * self.vec.quads + self.lane

    def load(self, number: Expr, pixel: Expr) -> Expr:
        """A pixel, loaded once."""
        return T.Bind(self.vec.load(self.buffer, self.quad(number, pixel)))

    def store(self, value: Expr, number: Expr, pixel: Expr) -> None:
        """Write a pixel."""
        self.vec.store(self.buffer, value, self.quad(number, pixel))

    @property
    def border_pixels(self) -> int:
        """Pixels of a plane's border."""
        return self.plane.size - self.plane.height * self.plane.width

    def zero_border(self, planes: int, step: int, first: Expr, numbered: Callable[[Expr], Expr] = lambda i: i) -> None:
        """Zeros into the borders of `planes` planes, the i-th of which is plane `numbered(i)`; see `rounds`."""
        p, count = self.plane, self.border_pixels

        def clear(places: list[Expr]) -> None:
            (place,) = places
            i = T.floordiv(place, count) if planes > 1 else T.int32(0)
            k = place - i * count
            # The border before the first row, between rows and behind the last row: so many rows lie in front.
            rows = T.max(T.min(T.floordiv(k - p.border * (p.cols - 1), 2 * p.border), p.height), 0)
            quad = (numbered(i) * p.size + k + rows * p.width) * self.vec.quads + self.lane
            self.vec.store(self.buffer, self.vec.const(0), quad)

        if count:
            rounds(planes * count, step, first, clear)


def image(vec: Any, buffer: Buffer, plane: Plane, lane: Expr) -> Image:
    """An activation of any number of planes, seen from a work-item."""
    return Image(vec, flat(buffer), plane, lane)


def over_pixels(
    vec: Vec, planes: int, plane: Plane, body: Callable[[Expr], tuple[Callable[[Expr, Expr], None], Sequence[Image]]]
) -> None:
    """A grid over all pixels of an activation: `body(lane)` gives what computes (plane's number, pixel), and the images
    whose borders are to be zeroed."""
    pixels = plane.height * plane.width
    total = planes * pixels
    each = slots(vec, total)
    mine = AN_ITEM if total >= ENOUGH * each * AN_ITEM else 1
    groups = -(-total // (each * mine))
    with launch([groups], [vec.quads, each]) as ((block,), (lane, slot)):
        compute, written = body(lane)
        for k in range(mine):
            place = (block * mine + k) * each + slot
            with when(True if total % (each * mine) == 0 else place < total):
                number = T.floordiv(place, pixels)
                compute(number, place - number * pixels)
        for target in written:
            target.zero_border(planes, groups * each, block * each + slot)


def kept_lanes(vec: Vec, lane: Expr, valid: int) -> Callable[[Expr], Expr]:
    """Zeroes lanes from `valid` on: examples that only fill up the last batch tile."""
    if valid == vec.lanes:
        return lambda value: value
    keep = T.ramp(lane * QUAD, 1, QUAD) < T.broadcast(T.int32(valid), QUAD)
    return lambda value: tirx.Select(keep, value, vec.const(0))


def group_totals(vec: Vec, quads: Sequence[Expr], item: Expr, items: int) -> list[Expr]:
    """Sums of quads over all numbers of all `items` of a work-group, known to each of them; always in one order.

    Two stages through local memory: `rows` items add up columns, then every item adds up what they found.
    """
    rows = max(n for n in range(1, items + 1) if items % n == 0 and n * n <= items)
    each, some = (T.alloc_buffer((len(quads) * n,), vec.dtype, scope="shared") for n in (items, rows))
    for k, quad in enumerate(quads):
        T.buffer_store(each, vec.total(quad), [k * items + item])
    with when(item < rows):
        for k in range(len(quads)):
            total = cell(tirx.const(0, vec.dtype), vec.dtype)
            with T.serial(items // rows) as i:
                T.buffer_store(total, total[0] + each[k * items + i * rows + item], [0])
            T.buffer_store(some, total[0], [k * rows + item])
    found = []
    for k in range(len(quads)):
        total = cell(tirx.const(0, vec.dtype), vec.dtype)
        with T.serial(rows) as i:
            T.buffer_store(total, total[0] + some[k * rows + i], [0])
        found.append(total[0])
    return found
