"""Kernels over a whole dense weight, which has no index arrays."""

from __future__ import annotations

from tvm import tirx

from .. import dense_convolution
from ..problem import LayerProblem
from .base import KernelFamily


class Dense(KernelFamily):
    """Of layers that are not sparse."""

    name = ""

    def serves(self, problem: LayerProblem, direction: str) -> bool:
        """Dense layers."""
        return problem.sparse is None

    def definition(self, problem: LayerProblem, direction: str, groups: int) -> tirx.PrimFunc:
        """See `dense_convolution`."""
        return getattr(dense_convolution, direction)(problem.geometry)
