"""Entries that run straight-line bodies: patterns of kernels, and kept places of a kernel's row."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from tvm import tirx

from mest_compiler.sparsity.block import Block
from mest_compiler.sparsity.pattern import Pattern

from .. import body_convolution
from ..bodies import Bodies, pattern_bodies, row_bodies
from ..geometry import ConvGeometry
from ..indices.bodies import PatternEntries, RowEntries
from ..problem import DIRECTIONS, LayerProblem
from .base import KernelFamily

TAPS_WIDTH = 3
"""A kernel's row of 3 places has 7 sets; wider ones would need too many bodies."""


class StraightLine(KernelFamily):
    """What both have in common: `bodies`, one of which each entry runs."""

    @abstractmethod
    def bodies(self, geometry: ConvGeometry) -> Bodies:
        """All bodies over a geometry."""

    def definition(self, problem: LayerProblem, direction: str, groups: int) -> tirx.PrimFunc:
        """See `body_convolution`."""
        bodies, dtypes = self.bodies(problem.geometry), self.dtypes(problem, direction, groups)
        return getattr(body_convolution, direction)(problem, bodies, groups, dtypes)


class Patterns(StraightLine):
    """An entry is a kept kernel, its body a pattern."""

    name = "pattern"
    indexings: ClassVar = {direction: PatternEntries(direction) for direction in DIRECTIONS}

    def serves(self, problem: LayerProblem, direction: str) -> bool:
        """Layers of the pattern scheme."""
        return problem.sparse is not None and isinstance(problem.sparse.kind, Pattern)

    def bodies(self, geometry: ConvGeometry) -> Bodies:
        """The eight patterns."""
        return pattern_bodies(geometry)


class Taps(StraightLine):
    """An entry is a row of a kernel with at least one kept weight, its body the set of those."""

    name = "taps"
    indexings: ClassVar = {direction: RowEntries(direction) for direction in DIRECTIONS}

    def serves(self, problem: LayerProblem, direction: str) -> bool:
        """Layers of single weights with kernels of three places a row and stride 1."""
        g, sparse = problem.geometry, problem.sparse
        single = sparse is not None and isinstance(sparse.kind, Block) and sparse.unit_size == 1
        return single and g.stride == (1, 1) and g.kernel[1] == TAPS_WIDTH

    def bodies(self, geometry: ConvGeometry) -> Bodies:
        """The sets of places of a kernel's row."""
        return row_bodies(geometry)
