"""Forward and backward-data through straight-line bodies: patterns, and the kept places of a kernel's row.

Each body is a loop over the entries that have its places; within it every vector of the input is loaded once for all
places that need it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.bodies import Bodies, Body
from mest_compiler.kernels.fusion import ALONE, Fused
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Buffer, Expr, Indices, function
from .emit import Vec, flat_any
from .gather import GatherKnobs, Input, Output, Shape, over_rows


def shared_loads(body: Body, pixels: list[int]) -> dict[int, list[tuple[int, int]]]:
    """Offset of each input vector -> the (value, pixel) pairs that it feeds."""
    uses: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for value, offset in body.terms:
        for i, p in enumerate(pixels):
            uses[p + offset].append((value, i))
    return dict(sorted(uses.items()))


def _add(vec: Vec, acc: list[Buffer], source: Buffer, pixels: list[int], body: Body, values: Buffer, at: Expr) -> None:
    splats = {value: vec.splat(values[at + value]) for value, _ in body.terms}
    for offset, uses in shared_loads(body, pixels).items():
        x = vec.load(source, offset)
        x = T.Bind(x) if len(uses) > 1 else x
        for value, i in uses:
            vec.fma(acc[i], splats[value], x)


def _gather(
    name: str, shape: Shape, bodies_of: Sequence[tuple[Body, ...]], layer: LayerProblem, knobs: GatherKnobs,
    dtypes: dict[str, str], fused: Fused,
) -> tirx.PrimFunc:  # fmt: skip
    """bodies_of: of each of the shape's grids."""
    g, vec = shape.geometry, shape.vec

    def emit() -> None:
        x = Input(shape, fused)
        vh, indices = T.arg("V", T.handle()), Indices(dtypes)
        y = Output(shape, fused, x)
        offsets, ptr, first, *order = indices.match()
        values = flat_any(vh, layer.sparse.unit_size, g.dtype)

        def run(source: Buffer, acc: list[Buffer], pixels: list[int], bodies: tuple[Body, ...], base: Expr) -> None:
            for number, body in enumerate(bodies):
                if not body.terms:
                    continue
                lo, hi = T.Bind(ptr[base + number]), T.Bind(ptr[base + number + 1])
                with T.serial(hi - lo) as k:
                    at = vec.pointer(source, offsets[lo + k] * g.lanes)
                    _add(vec, acc, at, pixels, body, values, T.Bind(first[lo + k]))

        def row(_: int, q: Expr, r: Expr) -> tuple[Expr, Expr]:
            return r, T.Bind(order[0][r]) if order else r

        def body(make: Callable[..., None], number: int, q: Expr, r: Expr, plane: Expr) -> None:
            bodies = bodies_of[number]
            base = T.Bind((r * knobs.groups + q) * len(bodies))
            make([plane], lambda source, acc, pixels: run(source, acc, pixels, bodies, base))

        over_rows(shape, x, y, knobs, 1, row, body)

    return function(fused.named(name), emit)


def forward(
    layer: LayerProblem, bodies: Bodies, knobs: GatherKnobs, dtypes: dict[str, str], fused: Fused = ALONE
) -> tirx.PrimFunc:
    """Y[f] = sum over entries and their places V * X.

    Arguments: X, V, offset, pointers [F*groups*bodies+1], first, row, Y.
    """
    g = layer.geometry
    return _gather("body_forward", Shape.forward(g), [bodies.forward], layer, knobs, dtypes, fused)


def backward_data(
    layer: LayerProblem, bodies: Bodies, knobs: GatherKnobs, dtypes: dict[str, str], fused: Fused = ALONE
) -> tirx.PrimFunc:
    """dX[c] likewise of dY, once for each parity class. Arguments: dY, V, offset, pointers, first, dX."""
    g = layer.geometry
    bodies_of = [one for _, one in bodies.backward]
    return _gather("body_backward_data", Shape.backward(g), bodies_of, layer, knobs, dtypes, fused)
