"""Backward-weight through straight-line bodies: patterns, and the kept places of a kernel's row.

A tile of dY stays in registers; every vector of the input is loaded once for all places that need it.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.bodies import Bodies
from mest_compiler.kernels.normalisation import Normalisation
from mest_compiler.kernels.problem import LayerProblem

from ..emit import Expr, tree
from .body_gather import shared_loads
from .emit import Vec
from .weight_gradient import Held, Operands, WeightGradientKnobs, over_held, sparse


def dots(
    layer: LayerProblem,
    bodies: Bodies,
    knobs: WeightGradientKnobs,
    dtypes: dict[str, str],
    recompute: Normalisation | None = None,
) -> tirx.PrimFunc:
    """Arguments: X, dY, offset, pointers [F*groups*bodies+1], first, row, entries, dV [capacity, unit_size],
    DL [capacity*unit_size, L]."""
    g = layer.geometry
    vec = Vec(g.lanes, g.dtype)

    def body(o: Operands, start: Expr, count: Expr) -> None:
        offsets, ptr, first, order, _ = o.indices

        def dots_of(held: Held) -> None:
            base = T.Bind((held.row * knobs.groups + held.group) * len(bodies.forward))
            for number, one in enumerate(bodies.forward):
                lo, hi = T.Bind(ptr[base + number]), T.Bind(ptr[base + number + 1])
                with T.serial(hi - lo) as k:
                    at, spot = vec.pointer(held.source, offsets[lo + k] * g.lanes), T.Bind(first[lo + k])
                    chains = {v: vec.registers(min(knobs.chains, len(held.dy))) for v, _ in one.terms}
                    for v, registers in chains.items():
                        for i, register in enumerate(registers):
                            vec.set(register, vec.const(0) if i else o.sums[spot + v, vec.ramp()])
                    turn = dict.fromkeys(chains, 0)
                    for offset, uses in shared_loads(one, held.pixels).items():
                        x = vec.load(at, offset)
                        x = T.Bind(x) if len(uses) > 1 else x
                        for v, i in uses:
                            vec.fma(chains[v][turn[v] % len(chains[v])], vec.get(held.dy[i]), x)
                            turn[v] += 1
                    for v, registers in chains.items():
                        T.buffer_store(o.sums, tree([vec.get(c) for c in registers]), [spot + v, vec.ramp()])

        over_held(g, knobs, o, order, start, count, dots_of)

    return sparse(layer, knobs.chunks, dtypes, "body_backward_weight", lambda _: T.int32(g.filters), body, recompute)
