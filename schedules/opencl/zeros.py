"""Between compact values and a dense weight on OpenCL, for layers whose dense kernel is the fastest with zeros kept."""

from __future__ import annotations

from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mest_compiler.kernels.problem import LayerProblem

from ..emit import Indices, function
from .emit import QUAD, Vec, cell, flat, flat_any, launch
from .planes import when
from .weight_gradient import ITEMS


def expand(layer: LayerProblem, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """W [F, C, kh, kw] of values, in two launches: zeros, then values in their places.

    Arguments: V [capacity, unit_size], place [capacity*unit_size], entries, W.
    """
    g, size, most = layer.geometry, prod(layer.sparse.shape), layer.sparse.capacity * layer.sparse.unit_size
    vec = Vec(g.lanes, g.dtype)

    def emit() -> None:
        vh, indices = T.arg("V", T.handle()), Indices(dtypes)
        w = T.arg("W", T.buffer(layer.sparse.shape, g.dtype))
        place, entries = indices.match()
        values, w = flat_any(vh, layer.sparse.unit_size, g.dtype), flat(w)
        whole = size // QUAD
        with launch([-(-(whole + size % QUAD) // ITEMS)], [ITEMS]) as ((block,), (item,)):
            i = cell(block * ITEMS + item)[0]
            with when(i < whole):
                vec.store(w, vec.const(0), i)
            if size % QUAD:
                with when(i >= whole, i < whole + size % QUAD):
                    T.buffer_store(w, tirx.const(0, g.dtype), [whole * (QUAD - 1) + i])
        with launch([-(-most // ITEMS)], [ITEMS]) as ((block,), (item,)):
            i = cell(block * ITEMS + item)[0]
            with when(i < entries[0] * layer.sparse.unit_size):
                T.buffer_store(w, values[i], [place[i]])

    return function("expand", emit)


def compact(layer: LayerProblem, dtypes: dict[str, str]) -> tirx.PrimFunc:
    """Values of a dense gradient. Arguments: dW [F, C, kh, kw], place [capacity*unit_size], entries, dV."""
    g, most = layer.geometry, layer.sparse.capacity * layer.sparse.unit_size

    def emit() -> None:
        w = T.arg("DW", T.buffer(layer.sparse.shape, g.dtype))
        indices, vh = Indices(dtypes), T.arg("DV", T.handle())
        place, entries = indices.match()
        values, w = flat_any(vh, layer.sparse.unit_size, g.dtype), flat(w)
        with launch([-(-most // ITEMS)], [ITEMS]) as ((block,), (item,)):
            i = cell(block * ITEMS + item)[0]
            with when(i < entries[0] * layer.sparse.unit_size):
                T.buffer_store(values, w[place[i]], [i])

    return function("compact", emit)
