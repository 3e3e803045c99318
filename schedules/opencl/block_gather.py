"""Forward and backward-data of block sparsity (m filters by n channels at one kernel place; (1, 1): unstructured)."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.geometry import Subgrid
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Expr, Indices, function
from .emit import QUAD, flat, flat_any
from .gather import GatherKnobs, Item, Shape, over_items, row_and_part, turns
from .weights import Weights

MOST_PLANES = 8  # output planes of a work-item where a block's fours do not come out even


def planes_of(block: int) -> int:
    """Output planes of a work-item; the items of a taller block share its entries."""
    if block % QUAD == 0:
        return QUAD
    return max(n for n in range(1, MOST_PLANES + 1) if block % n == 0)


def _gather(
    name: str, shape: Shape, grids: list[Subgrid], layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str],
    back: bool,
) -> tirx.PrimFunc:  # fmt: skip
    """A row makes `out` planes of `into` source planes an entry; its values stand at out*by_out + into*by_into."""
    g, vec, kind = shape.geometry, shape.vec, layer.sparse.kind
    out, into = (kind.channels, kind.filters) if back else (kind.filters, kind.channels)
    by_out, by_into = (kind.filters, 1) if back else (1, kind.filters)
    rows, planes = shape.targets // out, planes_of(out)
    parts = out // planes
    whole = layer.sparse.unit_size % QUAD == 0 and (parts == 1 or planes * by_out % QUAD == 0)

    def emit() -> None:
        x = shape.input()
        vh, indices = T.arg("V", T.handle()), Indices(dtypes)
        y = shape.output()
        offsets, ptr, last = indices.match()
        perm, order = (last, None) if back else (None, last)
        values, x, y = flat_any(vh, layer.sparse.unit_size, g.dtype), flat(x), flat(y)

        def body(item: Item) -> None:
            row, part = row_and_part(item.row, parts, rows * parts)
            start = part * planes
            acc, n = item.zeros(planes), len(item.reads)

            def add(entry: Expr) -> None:
                at = item.at(offsets[entry])
                place = T.Bind(perm[entry]) if perm is not None else entry
                weights = Weights(vec, values, place * layer.sparse.unit_size + start * by_out, whole)
                for i in range(into):
                    scalars = [weights[b * by_out + i * by_into] for b in range(planes)]
                    for p, read in enumerate(item.reads):
                        loaded = item.load(x, at, read + i * shape.source.size)
                        loaded = T.Bind(loaded) if planes > 1 else loaded
                        for b, scalar in enumerate(scalars):
                            vec.fma(acc[b * n + p], vec.splat(scalar), loaded)

            run = item.number * rows + row
            turns(T.Bind(ptr[run]), T.Bind(ptr[run + 1]), knobs.unroll, add)
            first = T.Bind(order[row] if order is not None else row) * out + start
            for b in range(planes):
                item.store(y, first + b, [vec.get(r) for r in acc[b * n : b * n + n]], shape.target.size)

        over_items(shape, grids, rows * parts, knobs, body)

    return function(name, emit)


def forward(layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """Y[f] = sum over entries V[e] * X[OFF[e] + pixel]; a row is m filters.

    Arguments: X, V [capacity, n*m], offset, pointers [rows+1], row [rows], Y; activations are
    [tiles, planes * rows * cols, L]. `dtypes`: of the index arrays by name.
    """
    g = layer.geometry
    return _gather("block_forward", Shape.forward(g), [g.forward_grid], layer, knobs, dtypes, False)


def backward_data(layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """dX[c] = sum over entries V[perm[e]] * dY[OFF[e] + pixel], a row is n channels, once for each parity class.

    Arguments: dY, V, offset, pointers [classes*C/n+1], perm, dX.
    """
    g = layer.geometry
    grids = [grid for grid, _ in g.backward_grids]
    return _gather("block_backward_data", Shape.backward(g), grids, layer, knobs, dtypes, True)
