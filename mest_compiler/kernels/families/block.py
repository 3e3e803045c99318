"""Blocks of filters by channels at one kernel place; an unstructured layer's are 1x1."""

from __future__ import annotations

from typing import ClassVar

from tvm import tirx

from mest_compiler.sparsity.block import Block

from .. import block_convolution
from ..indices.block import RowsOfChannels, RowsOfFilters
from ..problem import LayerProblem
from .base import KernelFamily


class Blocks(KernelFamily):
    """An entry is an offset and a block's values."""

    name = "block"
    dense_above = 0.7
    indexings: ClassVar = {
        "forward": RowsOfFilters("forward"),
        "backward_data": RowsOfChannels(),
        "backward_weight": RowsOfFilters("backward_weight"),
    }

    def serves(self, problem: LayerProblem, direction: str) -> bool:
        """Layers of block schemes."""
        return problem.sparse is not None and isinstance(problem.sparse.kind, Block)

    def definition(self, problem: LayerProblem, direction: str, groups: int) -> tirx.PrimFunc:
        """See `block_convolution`."""
        return getattr(block_convolution, direction)(problem, groups, self.dtypes(problem, direction, groups))
