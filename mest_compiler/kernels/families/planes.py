"""Kept planes: whole channels or filters, dense otherwise."""

from __future__ import annotations

from typing import ClassVar

from tvm import tirx

from mest_compiler.sparsity.planes import Planes

from .. import planes_convolution
from ..indices.planes import KeptPlanes
from ..problem import DIRECTIONS, LayerProblem
from .base import KernelFamily


class WholePlanes(KernelFamily):
    """Dense kernels over the kept planes alone."""

    name = "planes"
    indexings: ClassVar = dict.fromkeys(DIRECTIONS, KeptPlanes())

    def serves(self, problem: LayerProblem, direction: str) -> bool:
        """Layers of the channel and filter schemes."""
        return problem.sparse is not None and isinstance(problem.sparse.kind, Planes)

    def definition(self, problem: LayerProblem, direction: str, groups: int) -> tirx.PrimFunc:
        """See `planes_convolution`; planes stand in one group."""
        return getattr(planes_convolution, direction)(problem, self.dtypes(problem, direction, 1))
