"""Forward and backward-data of a sparse layer on OpenCL with any knobs, as `SparseCase.run` calls them."""

from __future__ import annotations

from collections.abc import Sequence

from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.problem import DIRECTIONS, LayerProblem
from mest_compiler.schedules.opencl import block_gather, body_gather, planes_gather
from mest_compiler.schedules.opencl.emit import Vec
from mest_compiler.schedules.opencl.gather import GatherKnobs

from ..generators import Kernel

VECTORS = (Vec(8, "float32"), Vec(16, "float64"), Vec(64, "float32"), Vec(8, "float64"))
KNOBS = (
    GatherKnobs(rows=1, cols=4, tiles=8, parts=1, outputs=2),
    GatherKnobs(rows=2, cols=3, tiles=3, parts=2, rows_first=True, unroll=2, outputs=1),
    GatherKnobs(rows=1, cols=1, tiles=1, parts=1, outputs=3),
    GatherKnobs(rows=3, cols=2, tiles=5, parts=3, outputs=1),
    GatherKnobs(rows=1, cols=2, tiles=2, parts=9, rows_first=True, unroll=2, outputs=4),
)


def gathers(layer: LayerProblem, family: str, knobs: Sequence[GatherKnobs]) -> list[Kernel]:
    """Both directions."""
    found = []
    for direction in DIRECTIONS[:2]:
        for k in knobs:
            dtypes = FAMILIES[family].dtypes(layer, direction, k.groups)
            if family == "block":
                function, args = getattr(block_gather, direction), (layer, k, dtypes)
            elif family == "planes":
                function, args = getattr(planes_gather, direction), (layer, k.outputs, k, dtypes)
            else:
                bodies = FAMILIES[family].bodies(layer.geometry)
                function, args = getattr(body_gather, direction), (layer, bodies, k, dtypes)
            found.append(Kernel(direction, family, k.groups, str(k), lambda f=function, a=args: f(*a)))
    return found
