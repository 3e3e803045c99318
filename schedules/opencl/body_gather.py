"""Forward and backward-data through straight-line bodies: patterns.

Each body is a loop over the entries that have its places, the same for all items of a row; within it every quad of the
input is loaded once for all places that need it.
"""

from __future__ import annotations

from collections import defaultdict

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.bodies import Bodies, Body
from mest_compiler.kernels.geometry import Subgrid
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Expr, Indices, function
from .emit import QUAD, flat, flat_any
from .gather import GatherKnobs, Item, Shape, over_items, turns
from .weights import Weights


def shared_loads(terms: tuple[tuple[int, int], ...], pixels: list[int]) -> dict[int, list[tuple[int, int]]]:
    """Offset of each pixel of the input -> the (value, pixel) pairs that it feeds; `terms`: (value, offset)."""
    uses: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for value, offset in terms:
        for i, p in enumerate(pixels):
            uses[p + offset].append((value, i))
    return dict(sorted(uses.items()))


def _gather(
    name: str, shape: Shape, grids: list[tuple[Subgrid, tuple[Body, ...]]], layer: LayerProblem, knobs: GatherKnobs,
    dtypes: dict[str, str],
) -> tirx.PrimFunc:  # fmt: skip
    g, vec = shape.geometry, shape.vec
    # Entries of one size start at multiples of it.
    whole = layer.sparse.unit_size % QUAD == 0

    def emit() -> None:
        x = shape.input()
        vh, indices = T.arg("V", T.handle()), Indices(dtypes)
        y = shape.output()
        offsets, ptr, first, *order = indices.match()
        values, x, y = flat_any(vh, layer.sparse.unit_size, g.dtype), flat(x), flat(y)

        def item_body(item: Item) -> None:
            bodies, acc = grids[item.number][1], item.zeros(1)
            for number, body in enumerate(bodies):
                if not body.terms:
                    continue

                def add(entry: Expr, body: Body = body) -> None:
                    at = item.at(offsets[entry])
                    weights = Weights(vec, values, T.Bind(first[entry]), whole)
                    for offset, uses in shared_loads(body.terms, item.reads).items():
                        loaded = T.Bind(item.load(x, at, offset))
                        for value, i in uses:
                            vec.fma(acc[i], vec.splat(weights[value]), loaded)

                run = item.row * len(bodies) + number
                turns(T.Bind(ptr[run]), T.Bind(ptr[run + 1]), knobs.unroll, add)
            plane = T.Bind(order[0][item.row]) if order else item.row
            item.store(y, plane, [vec.get(r) for r in acc], shape.target.size)

        over_items(shape, [grid for grid, _ in grids], shape.targets, knobs, item_body)

    return function(name, emit)


def forward(layer: LayerProblem, bodies: Bodies, knobs: GatherKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """Y[f] = sum over entries and their places V * X.

    Arguments: X, V, offset, pointers [F*bodies+1], first, row, Y.
    """
    g = layer.geometry
    return _gather("body_forward", Shape.forward(g), [(g.forward_grid, bodies.forward)], layer, knobs, dtypes)


def backward_data(layer: LayerProblem, bodies: Bodies, knobs: GatherKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """dX[c] likewise of dY, once for each parity class. Arguments: dY, V, offset, pointers, first, dX."""
    g = layer.geometry
    return _gather("body_backward_data", Shape.backward(g), list(bodies.backward), layer, knobs, dtypes)
