"""Forward and backward-data of structured sparsity: shorter dense convolutions over the kept channels or filters.

Where the kept planes are the input's, the loop over input planes runs through their list. Where they are the output's,
every item has some of the list: kept planes come first in it, and the items of the others zero theirs.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Subgrid
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Buffer, Expr, Index, Indices, function
from .dense_gather import MOST_UPDATES, Taps, forward_taps, multiply, runs
from .emit import QUAD, flat, flat_any
from .gather import GatherKnobs, Item, Shape, over_items, turns
from .weights import Weights

Grids = list[tuple[Subgrid, Taps]]


def _arguments(
    layer: LayerProblem, shape: Shape, dtypes: dict[str, str]
) -> tuple[Buffer, Buffer, Index, Index, Buffer]:
    """(X, Y, kept planes, how many, flat V)."""
    x = shape.input()
    vh, indices = T.arg("V", T.handle()), Indices(dtypes)
    y = shape.output()
    planes, entries = indices.match()
    values = flat_any(vh, layer.sparse.unit_size, shape.geometry.dtype)
    return flat(x), flat(y), planes, entries, values


def _start(item: Item, block: int, planes: int) -> Expr:
    """First of an item's output planes, or of their places in the list."""
    return T.min(item.row * block, planes - block) if planes % block else item.row * block


def _kept_inputs(
    name: str, shape: Shape, grids: Grids, block: int, layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str]
) -> tirx.PrimFunc:
    """V [kept inputs, outputs, taps]."""
    g, vec = layer.geometry, shape.vec
    block = min(block, shape.targets)
    steps = (layer.sparse.unit_size, g.taps * (block if shape.targets % block == 0 else 1))
    whole = all(step % QUAD == 0 for step in steps)

    def emit() -> None:
        x, y, planes, entries, values = _arguments(layer, shape, dtypes)

        def body(item: Item) -> None:
            taps, acc, n = grids[item.number][1], item.zeros(block), len(item.reads)
            row = _start(item, block, shape.targets)
            sweep = runs(taps, g.kernel[1], MOST_UPDATES // (len(acc) * knobs.unroll))

            def add(k: Expr) -> None:
                def weights(shift: Expr, shifted: bool) -> Callable[[int, int, int], Expr]:
                    first = k * layer.sparse.unit_size + row * g.taps + shift
                    found = Weights(vec, values, first, whole and not shifted)
                    return lambda b, j, tap: found[b * g.taps + tap]

                multiply(item, x, acc, sweep, [planes[k] * shape.source.size], weights)

            if taps:
                turns(T.int32(0), T.Bind(entries[0]), knobs.unroll, add)
            for b in range(block):
                item.store(y, row + b, [vec.get(r) for r in acc[b * n : b * n + n]], shape.target.size)

        over_items(shape, [grid for grid, _ in grids], -(-shape.targets // block), knobs, body)

    return function(name, emit)


def _kept_outputs(
    name: str, shape: Shape, grids: Grids, block: int, layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str]
) -> tirx.PrimFunc:
    """V [kept outputs, inputs, taps]."""
    g, vec = layer.geometry, shape.vec
    block = min(block, shape.targets)
    inputs = knobs.unroll if shape.sources % knobs.unroll == 0 else 1
    whole = layer.sparse.unit_size % QUAD == 0 and g.taps * inputs % QUAD == 0

    def emit() -> None:
        x, y, planes, entries, values = _arguments(layer, shape, dtypes)

        def body(item: Item) -> None:
            taps, acc, n = grids[item.number][1], item.zeros(block), len(item.reads)
            start, kept = _start(item, block, shape.targets), T.Bind(entries[0])
            # An item with some kept planes computes the last kept one in the places of the others, and drops it.
            rows = [T.min(start + b, kept - 1) * layer.sparse.unit_size for b in range(block)]
            sweep = runs(taps, g.kernel[1], MOST_UPDATES // (len(acc) * inputs))

            def add(c: Expr) -> None:
                def weights(shift: Expr, shifted: bool) -> Callable[[int, int, int], Expr]:
                    first = c * (inputs * g.taps) + shift
                    found = [Weights(vec, values, row + first, whole and not shifted) for row in rows]
                    return lambda b, j, tap: found[b][j * g.taps + tap]

                sources = [(c * inputs + j) * shape.source.size for j in range(inputs)]
                multiply(item, x, acc, sweep, sources, weights)

            if taps:
                with T.serial(T.Select(start < kept, shape.sources // inputs, 0)) as c:
                    add(c)
            for b in range(block):
                mine = acc[b * n : b * n + n]
                with T.If(start + b >= kept), T.Then():
                    for register in mine:
                        vec.set(register, vec.const(0))
                item.store(y, T.Bind(planes[start + b]), [vec.get(r) for r in mine], shape.target.size)

        over_items(shape, [grid for grid, _ in grids], -(-shape.targets // block), knobs, body)

    return function(name, emit)


def forward(layer: LayerProblem, block: int, knobs: GatherKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """Y = conv(X, W) with V the kept channels [kept, F, kh, kw] or filters [kept, C, kh, kw].

    Arguments: X, V [capacity, unit_size], planes, entries, Y; register tiles of `block` filters.
    """
    g = layer.geometry
    make = _kept_inputs if layer.sparse.kind.axis == 1 else _kept_outputs
    return make("planes_forward", Shape.forward(g), forward_taps(g), block, layer, knobs, dtypes)


def backward_data(layer: LayerProblem, block: int, knobs: GatherKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """dX of the same; zero in removed channels. Arguments: dY, V, planes, entries, dX."""
    g = layer.geometry
    make = _kept_outputs if layer.sparse.kind.axis == 1 else _kept_inputs
    return make("planes_backward_data", Shape.backward(g), list(g.backward_grids), block, layer, knobs, dtypes)
