"""Between compact values and a dense weight, for layers whose dense kernel is the fastest although zeros are kept."""

from __future__ import annotations

from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.problem import LayerProblem

from ..emit import Indices, function
from .emit import Vec, flat, flat_any


def expand(layer: LayerProblem, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """W [F, C, kh, kw] of values. Arguments: V [capacity, unit_size], place [capacity*unit_size], entries, W."""
    g, size = layer.geometry, prod(layer.sparse.shape)
    vec = Vec(g.lanes, g.dtype)

    def emit() -> None:
        vh, indices = T.arg("V", T.handle()), Indices(dtypes)
        w = T.arg("W", T.buffer(layer.sparse.shape, g.dtype))
        place, entries = indices.match()
        values, w = flat_any(vh, layer.sparse.unit_size, g.dtype), flat(w)
        whole = size // vec.lanes
        with T.serial(whole) as i:
            T.buffer_store(w, vec.const(0), [vec.ramp(i * vec.lanes)])
        with T.serial(size - whole * vec.lanes) as i:
            T.buffer_store(w, tirx.const(0, g.dtype), [whole * vec.lanes + i])
        with T.serial(entries[0] * layer.sparse.unit_size) as i:
            T.buffer_store(w, values[i], [place[i]])

    return function("expand", emit)


def compact(layer: LayerProblem, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """Values of a dense gradient. Arguments: dW [F, C, kh, kw], place [capacity*unit_size], entries, dV."""
    g = layer.geometry

    def emit() -> None:
        w = T.arg("DW", T.buffer(layer.sparse.shape, g.dtype))
        indices, vh = Indices(dtypes), T.arg("DV", T.handle())
        place, entries = indices.match()
        values, w = flat_any(vh, layer.sparse.unit_size, g.dtype), flat(w)
        with T.serial(entries[0] * layer.sparse.unit_size) as i:
            T.buffer_store(values, w[place[i]], [i])

    return function("compact", emit)
