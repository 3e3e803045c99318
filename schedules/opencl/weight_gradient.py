"""What all backward-weight convolutions share on OpenCL: dV[e] = sum over pixels of dY[filter(e)] * X[place(e)].

A work-item keeps the sums of a few values in registers, a quad of batch lanes each, over all its pixels. The items of
a work-group share one filter's (or block of filters') dY: L/4 of them hold the lanes of a pixel, `rows` of them take
turns at image rows, and `shares` of them split the values. Sums over lanes and image rows go through local memory once,
at the end. Where a layer has too few values to fill a device, `splits` work-groups share out the image rows of a value,
and a second launch adds up what they left in a workspace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.errors import DeviceError
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Buffer, Expr, Index, Indices, activation, function
from .emit import QUAD, Vec, cell, flat, flat_any, launch
from .local_sums import Layout, LocalSums
from .planes import when
from .quotient import quotient

ITEMS = 128  # work-items of a work-group by default
MOST_FILTERS = 4  # filters whose dY an item reads; a taller block is worked through in parts
MOST_SUMS = 12  # quads of sums of an item: with more, too few items fit the registers
PIXELS = 64  # of an item; with fewer, adding up costs more than another work-group gains
GROUPS = 48  # work-groups that keep a phone's few compute units busy


@dataclass(frozen=True)
class WeightGradientKnobs:
    """How a weight gradient is computed.

    ``entries``: places of X whose sums an item holds, for each of its filters (straight-line bodies: entries);
    ``pixels``: dY pixels an item holds (straight-line bodies); ``rows``: items that take turns at image rows;
    ``shares``: items that split the places; ``spread``: work-groups that take turns at a row's entries; ``splits``:
    work-groups that take turns at image rows.
    """

    entries: int = 3
    pixels: int = 8
    rows: int = 1
    shares: int = 8
    spread: int = 1
    splits: int = 1

    @property
    def groups(self) -> int:
        """Groups of input channels that the index arrays are sorted by: nothing is kept close, so none are needed."""
        return 1


@dataclass(frozen=True)
class Cover:
    """Parts of one size that cover `total` places: where they do not divide it, the last one starts early."""

    total: int
    size: int

    @property
    def count(self) -> int:
        """Number of parts."""
        return -(-self.total // self.size)

    @property
    def exact(self) -> bool:
        """Whether no two parts overlap."""
        return self.total % self.size == 0

    def start(self, part: Expr) -> Expr:
        """First place of a part."""
        return part * self.size if self.exact else T.min(part * self.size, T.int32(self.total - self.size))

    def fresh(self, part: Expr, place: Expr) -> Expr:
        """Whether place `place` of a part is in no part before it."""
        return True if self.exact else self.start(part) + place >= part * self.size


def cover(total: int, most: int) -> Cover:
    """As few parts as can be, of at most `most` places."""
    return Cover(total, -(-total // -(-total // most)))


@dataclass(frozen=True)
class Operands:
    """What the body of a weight gradient works with: flat x and dy, index arrays, and which work-item it is.

    ``block``, ``split``: number of the work-group, (x, y) and z; ``lane``, ``row``, ``share``: of the item.
    """

    vec: Vec
    knobs: WeightGradientKnobs
    x: Buffer
    dy: Buffer
    indices: list[Index]
    block: tuple[Expr, Expr]
    lane: Expr
    row: Expr
    share: Expr
    split: Expr
    local: LocalSums
    out: Buffer
    start: Expr

    def sums(self) -> list[Buffer]:
        """Registers, zero."""
        registers = self.vec.registers(self.local.layout.count)
        for register in registers:
            self.vec.set(register, self.vec.const(0))
        return registers

    def add_up(self, sums: list[Buffer], put: Callable[[Expr, Expr, Expr], None]) -> None:
        """put(share, number of the register, its sum over lanes and image rows); all items must come here."""
        totals = [self.vec.total(self.vec.get(register)) for register in sums]
        self.local.add_up(self.share, self.row * self.vec.quads + self.lane, totals, put)

    def put(self, place: Expr, value: Expr) -> None:
        """Write one value, or what this split has of it."""
        T.buffer_store(self.out, value, [self.start + place])

    def stream(self, base: Expr, offsets: Sequence[int] = (0,)) -> Stream:
        """Vectors `offsets` pixels behind a place of the batch tile."""
        return Stream(cell(base * self.vec.quads + self.lane), tuple(offsets))

    @contextmanager
    def image_rows(self, tiles: int, rows: int) -> Iterator[tuple[Expr, Expr]]:
        """(batch tile, image row) of the image rows that are this item's turn."""
        step, first = self.knobs.rows * self.knobs.splits, self.split * self.knobs.rows + self.row
        whole = tiles * rows
        count = whole // step if whole % step == 0 else T.floordiv(whole + (step - 1) - first, step)
        if tiles == 1:
            with T.serial(count) as i:
                yield T.int32(0), cell(i * step + first)[0]
            return
        # Carried on from turn to turn: a division costs as much as several pixels.
        tile, row = (cell(part) for part in quotient(first, rows, step))
        with T.serial(count):
            yield tile[0], row[0]
            T.buffer_store(row, row[0] + step % rows, [0])
            T.buffer_store(tile, tile[0] + step // rows, [0])
            if step % rows:
                with T.If(row[0] >= rows), T.Then():
                    T.buffer_store(row, row[0] - rows, [0])
                    T.buffer_store(tile, tile[0] + 1, [0])


@dataclass(frozen=True)
class Stream:
    """Vectors that an item reads at every pixel: `offsets` pixels behind `base`, a cell that counts quads."""

    base: Buffer
    offsets: tuple[int, ...]


def outer_products(
    g: ConvGeometry, o: Operands, places: Sequence[Stream], filters: Sequence[Stream], sums: Sequence[Buffer]
) -> None:
    """sums[place * filters + filter] += x[place] * dy[filter] over the item's pixels.

    A vector of x that another place of its stream reads at the next pixel stays in a register till then.
    """
    vec, grid, quads, step = o.vec, g.forward_grid, o.vec.quads, g.forward_grid.in_col
    with o.image_rows(g.tiles, g.dy.height) as (tile, h):
        x_row = cell((tile * (g.channels * g.x.size) + h * grid.in_row + grid.in_base) * quads)[0]
        dy_row = cell((tile * (g.filters * g.dy.size) + h * g.dy.cols + g.dy.at(0, 0)) * quads)[0]
        xs = [Window.open(o, s.offsets, cell(s.base[0] + x_row)[0], step, g.dy.width) for s in places]
        dys = [(at, p) for s in filters for at in [cell(s.base[0] + dy_row)[0]] for p in s.offsets]
        with T.serial(g.dy.width) as w:
            d = [T.Bind(vec.load(o.dy, at + (w + p) * quads)) for at, p in dys]
            x = [value for window in xs for value in window.at(w)]
            for i, value in enumerate(x):
                for b, other in enumerate(d):
                    vec.fma(sums[i * len(d) + b], other, value)


@dataclass(frozen=True)
class Window:
    """A stream's vectors along an image row, `step` pixels on at each turn; `kept`: registers of those that are read
    twice or more."""

    o: Operands
    offsets: tuple[int, ...]
    base: Expr
    step: int
    kept: dict[int, Buffer]

    @classmethod
    def open(cls, o: Operands, offsets: tuple[int, ...], base: Expr, step: int, width: int) -> Window:
        """At the start of a row of `width` pixels."""
        vec = o.vec
        recompute = [p for p in offsets if p + step in offsets] if width > 1 else []
        kept = {p: vec.registers(1)[0] for p in sorted({q for p in recompute for q in (p, p + step)})}
        for p in recompute:
            vec.set(kept[p + step], vec.load(o.x, base + p * vec.quads))
        return cls(o, offsets, base, step, kept)

    def at(self, turn: Expr) -> list[Expr]:
        """The vectors at a pixel; turns must come one after the other."""
        vec, values = self.o.vec, {}
        for p in sorted(self.offsets):  # a register is read before it is written
            following = self.kept.get(p + self.step)
            if p in self.kept and following is not None:
                vec.set(self.kept[p], vec.get(following))
                continue
            loaded = vec.load(self.o.x, self.base + (turn * self.step + p) * vec.quads)
            if p in self.kept:
                vec.set(self.kept[p], loaded)
            else:
                values[p] = T.Bind(loaded)
        return [vec.get(self.kept[p]) if p in self.kept else values[p] for p in self.offsets]


def workspace(knobs: WeightGradientKnobs, size: int) -> tuple[int, int] | None:
    """Shape of the last argument of a kernel that writes `size` values, None if it has no such argument."""
    return (knobs.splits, size) if knobs.splits > 1 else None


def kernel(
    name: str, g: ConvGeometry, knobs: WeightGradientKnobs, dtypes: dict[str, str], shape: tuple[int, ...],
    blocks: tuple[int, int], count: int, body: Callable[[Operands], None],
) -> tirx.PrimFunc:  # fmt: skip
    """The frame of every weight gradient: `body` in each of `blocks` (x, y) work-groups, whose items hold `count` sums.

    Arguments: X, dY, index arrays (the last one `entries`), dV of `shape` (without index arrays dW) and the workspace,
    if there is one.
    """
    vec, size = Vec(g.lanes, g.dtype), prod(shape)
    room = workspace(knobs, size)
    layout = Layout(g.dtype, count, vec.quads * knobs.rows, knobs.shares)

    def emit() -> None:
        x = activation("X", g.tiles, g.channels, g.x, vec)
        dy = activation("DY", g.tiles, g.filters, g.dy, vec)
        indices = Indices(dtypes)
        out = T.arg("DV", T.handle()) if dtypes else T.arg("DW", T.buffer(shape, g.dtype))
        work = T.arg("DL", T.buffer(room, g.dtype)) if room else None
        arrays = indices.match()
        out = flat_any(out, shape[-1], g.dtype) if dtypes else flat(out)
        part = flat(work) if room else out
        x, dy = flat(x), flat(dy)
        with launch((*blocks, knobs.splits), (vec.quads, knobs.rows, knobs.shares)) as (at, me):
            split = at[2] if room else 0
            local = LocalSums.make(layout)
            body(Operands(vec, knobs, x, dy, arrays, (at[0], at[1]), *me, split, local, part, split * size))
        if room:
            filled = arrays[-1][0] * shape[-1] if dtypes else size
            _add_splits(part, out, knobs.splits, size, filled, layout.threads)

    return function(name, emit)


def _add_splits(parts: Buffer, out: Buffer, splits: int, size: int, filled: Expr, items: int) -> None:
    """out[i] = sum of the splits' parts[split, i], for i < filled."""
    with launch([-(-size // items)], [items]) as ((block,), (item,)):
        i = cell(block * items + item)[0]
        with when(i < filled):
            total = cell(parts[i], out.dtype)
            for split in range(1, splits):
                T.buffer_store(total, total[0] + parts[i + split * size], [0])
            T.buffer_store(out, total[0], [i])


def sparse(
    name: str, layer: LayerProblem, knobs: WeightGradientKnobs, dtypes: dict[str, str], blocks: tuple[int, int],
    count: int, body: Callable[[Operands], None],
) -> tirx.PrimFunc:  # fmt: skip
    """`kernel` of a sparse layer. Arguments: X, dY, index arrays, dV [capacity, unit_size], and the workspace."""
    shape = (layer.sparse.capacity, layer.sparse.unit_size)
    return kernel(name, layer.geometry, knobs, dtypes, shape, blocks, count, body)


@contextmanager
def rounds(total: Expr, together: int, block: Expr, spread: int) -> Iterator[Expr]:
    """The numbers of a work-group's rounds of `together` units each, of `total` units that `spread` work-groups take
    turns at. All items of a work-group make the same rounds.

    It is a loop where one round does it all, too: without one, PoCL vectorises over items and is 20 times slower.
    """
    step = together * spread
    first = block * together
    with T.serial(T.floordiv(total + (step - 1) - first, step)) as i:
        yield cell(i * step + first)[0]


def fit(
    device: OpenClProfile, g: ConvGeometry, knobs: WeightGradientKnobs, count: int, units: float, rows: int
) -> WeightGradientKnobs:
    """Knobs with a work-group that fits the device, for `rows` rows of about `units` units of `count` sums each.

    `shares` items split a row's units, further ones take turns at image rows, and what is left of the units goes to
    other work-groups. Where these are still few, they split image rows.

    Raises:
        DeviceError: the device's work-groups are too small for one pixel's lanes, or for their sums.
    """
    quads, image_rows = g.lanes // QUAD, g.tiles * g.dy.height
    slots = min(device.work_group, ITEMS) // quads
    shares = 1
    while shares * 2 <= min(slots, units):
        shares *= 2
    turns = max(1, min(slots // shares, image_rows))
    while Layout(g.dtype, count, quads * turns, shares).bytes > device.local_bytes and turns * shares > 1:
        turns, shares = (turns // 2, shares) if turns > 1 else (turns, shares // 2)
    bytes_ = Layout(g.dtype, count, quads * turns, shares).bytes
    if not slots or bytes_ > device.local_bytes:
        raise DeviceError(
            f"A weight gradient over {g.lanes} batch lanes needs work-groups of {quads} items and {bytes_} bytes of "
            f"local memory, and {device.name} has {device.work_group} and {device.local_bytes}: use fewer batch lanes."
        )
    spread = max(1, ceil(units / shares))
    most_splits = image_rows * g.dy.width // (turns * PIXELS)
    splits = max(1, min(GROUPS // (rows * spread), most_splits))
    return replace(knobs, rows=turns, shares=shares, spread=spread, splits=splits)
