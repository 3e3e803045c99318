"""Forward and backward-data of block sparsity (m filters by n channels at one kernel place; (1, 1): unstructured)."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.fusion import ALONE, Fused
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Buffer, Expr, Indices, blocks, function
from .gather import GatherKnobs, Input, Output, Shape, over_rows, update

MOST_PLANES = 4  # output planes a register tile; a taller block is worked through in parts


def _gather(
    name: str, shape: Shape, layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str],
    back: bool, fused: Fused,
) -> tirx.PrimFunc:  # fmt: skip
    """A row makes `out` planes of `into` source planes an entry; its values stand at out*by_out + into*by_into."""
    g, vec, kind = shape.geometry, shape.vec, layer.sparse.kind
    out, into = (kind.channels, kind.filters) if back else (kind.filters, kind.channels)
    by_out, by_into = (kind.filters, 1) if back else (1, kind.filters)
    rows = shape.targets // out

    def emit() -> None:
        x = Input(shape, fused)
        vh, indices = T.arg("V", T.handle()), Indices(dtypes)
        y = Output(shape, fused, x)
        values = T.match_buffer(vh, (T.int32(), layer.sparse.unit_size), g.dtype)
        offsets, ptr, last = indices.match()
        perm, order = (last, None) if back else (None, last)

        def run(source: Buffer, acc: list[Buffer], pixels: list[int], lo: Expr, hi: Expr, start: int, n: int) -> None:
            with T.serial(hi - lo) as k:
                at = vec.pointer(source, offsets[lo + k] * g.lanes)
                entry = T.Bind(perm[lo + k]) if perm is not None else lo + k
                for i in range(into):
                    moved = [p + i * shape.source.size for p in pixels]
                    scalars = [values[entry, (start + b) * by_out + i * by_into] for b in range(n)]
                    update(vec, acc, at, moved, scalars)

        def row(number: int, q: Expr, r: Expr) -> tuple[Expr, Expr, Expr]:
            lo = T.Bind(ptr[(number * rows + r) * knobs.groups + q])
            hi = T.Bind(ptr[(number * rows + r) * knobs.groups + q + 1])
            return T.Bind(order[r]) if order is not None else r, lo, hi

        def body(make: Callable[..., None], _: int, q: Expr, row: Expr, lo: Expr, hi: Expr) -> None:
            for part in blocks(out, MOST_PLANES):
                for start in range(part.start, part.start + part.size * part.count, part.size):
                    make(
                        [row * out + start + b for b in range(part.size)],
                        lambda source, acc, pixels, start=start, n=part.size: run(
                            source, acc, pixels, lo, hi, start, n
                        ),
                    )

        over_rows(shape, x, y, knobs, out, row, body)

    return function(fused.named(name), emit)


def forward(layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str], fused: Fused = ALONE) -> tirx.PrimFunc:
    """Y[f] = sum over entries V[e] * X[OFF[e] + pixel]; a row is m filters.

    Arguments: X, V [capacity, n*m], offset, pointers [rows*groups+1], row [rows], Y; activations are
    [tiles, planes * rows * cols, L]. `dtypes`: of the index arrays by name.
    """
    g = layer.geometry
    return _gather("block_forward", Shape.forward(g), layer, knobs, dtypes, False, fused)


def backward_data(
    layer: LayerProblem, knobs: GatherKnobs, dtypes: dict[str, str], fused: Fused = ALONE
) -> tirx.PrimFunc:
    """dX[c] = sum over entries V[perm[e]] * dY[OFF[e] + pixel], a row is n channels, once for each parity class.

    Arguments: dY, V, offset, pointers [classes*C/n*groups+1], perm, dX.
    """
    g = layer.geometry
    return _gather("block_backward_data", Shape.backward(g), layer, knobs, dtypes, True, fused)
