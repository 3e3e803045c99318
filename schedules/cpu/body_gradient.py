"""Backward-weight through straight-line bodies: patterns, and the kept places of a kernel's row.

A tile of dY stays in registers; every vector of the input is loaded once for all places that need it.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.bodies import Bodies
from mest_compiler.kernels.indices import SparseConv
from mest_compiler.kernels.normalisation import Normalisation

from ..emit import Expr, tree
from .body_gather import shared_loads
from .emit import Vec
from .weight_gradient import Operands, WeightGradientKnobs, held, over_dy_tiles, sparse


def dots(
    layer: SparseConv,
    bodies: Bodies,
    knobs: WeightGradientKnobs,
    dtypes: dict[str, str],
    again: Normalisation | None = None,
) -> tirx.PrimFunc:
    """Arguments: X, dY, offset, pointers [F*groups*bodies+1], first, row, entries, dV [capacity, unit_size],
    DL [capacity*unit_size, L]."""
    g = layer.geometry
    vec, grid = Vec(g.lanes, g.dtype), g.forward_grid

    def body(o: Operands, start: Expr, count: Expr) -> None:
        offsets, ptr, first, order, _ = o.indices

        def dot_tile(h: Expr, w: Expr, pixels: list[tuple[int, int]]) -> None:
            moved = [a * grid.in_row + b * grid.in_col for a, b in pixels]
            with T.serial(knobs.groups) as q, T.serial(count) as r:
                d = held(vec, g, o.dy, o.tile, order[start + r], h, w, pixels)
                source = vec.pointer(*o.x, h * grid.in_row + w * grid.in_col + grid.in_base, 0)
                base = T.Bind(((start + r) * knobs.groups + q) * len(bodies.forward))
                for number, one in enumerate(bodies.forward):
                    lo, hi = T.Bind(ptr[base + number]), T.Bind(ptr[base + number + 1])
                    with T.serial(hi - lo) as k:
                        at, spot = vec.pointer(source, offsets[lo + k] * g.lanes), T.Bind(first[lo + k])
                        chains = {v: vec.registers(min(knobs.chains, len(pixels))) for v, _ in one.terms}
                        for v, registers in chains.items():
                            for i, register in enumerate(registers):
                                vec.set(register, vec.const(0) if i else o.sums[spot + v, vec.ramp()])
                        turn = dict.fromkeys(chains, 0)
                        for offset, uses in shared_loads(one, moved).items():
                            x = vec.load(at, offset)
                            x = T.Bind(x) if len(uses) > 1 else x
                            for v, i in uses:
                                vec.fma(chains[v][turn[v] % len(chains[v])], vec.get(d[i]), x)
                                turn[v] += 1
                        for v, registers in chains.items():
                            T.buffer_store(o.sums, tree([vec.get(c) for c in registers]), [spot + v, vec.ramp()])

        over_dy_tiles(g, knobs.pixels, dot_tile)

    return sparse(layer, knobs.chunks, dtypes, "body_backward_weight", lambda _: T.int32(g.filters), body, again)
