"""Dense kernels between an expansion of the values and their compaction: for every scheme, and where much is kept."""

from __future__ import annotations

from typing import ClassVar

from tvm import tirx

from ..indices.planes import Places
from ..problem import DIRECTIONS, LayerProblem
from .base import KernelFamily
from .dense import Dense


class Expanded(KernelFamily):
    """Of any sparse layer: a scheme needs no kernels of its own to run."""

    name = "zeros"
    indexings: ClassVar = dict.fromkeys(DIRECTIONS, Places())

    def serves(self, problem: LayerProblem, direction: str) -> bool:
        """Sparse layers."""
        return problem.sparse is not None

    def definition(self, problem: LayerProblem, direction: str, groups: int) -> tirx.PrimFunc:
        """That of the dense kernel in the middle."""
        _, dense = self.tuned_as(problem)
        return Dense().definition(dense, direction, groups)

    def tuned_as(self, problem: LayerProblem) -> tuple[str, LayerProblem]:
        """As the dense layer, whatever is kept."""
        return Dense.name, LayerProblem(problem.geometry)
