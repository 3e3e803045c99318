"""Forms of the index arrays that a sparse layer's kernels read, and what is used to fill them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from mest_compiler.sparsity.structure import Structure

from ..geometry import ConvGeometry
from ..problem import LayerProblem


@dataclass(frozen=True)
class IndexArraySpec:
    """Length of an index array, and the largest value it can hold."""

    length: int
    largest: int

    @property
    def dtype(self) -> str:
        """The narrowest type that holds the values: loads that widen cost a CPU nothing."""
        return "uint16" if self.largest < 1 << 16 else "int32"


class Indexing(ABC):
    """The index arrays of one kernel in argument order; they stand between its inputs and its outputs.

    Arrays of one name are the same array, whichever kernel of a layer reads them.
    """

    @abstractmethod
    def forms(self, layer: LayerProblem, groups: int) -> dict[str, IndexArraySpec]:
        """Each array's form, for a kernel built with this number of groups of planes."""

    @abstractmethod
    def arrays(self, structure: Structure, geometry: ConvGeometry, groups: int) -> dict[str, np.ndarray]:
        """The filled part of each array, any integer type; what is left of its length is zero."""


def filled(layer: LayerProblem) -> dict[str, IndexArraySpec]:
    """`entries` [1]: how many entries the structure has now. Every layer has it; `index_arrays` fills it."""
    return {"entries": IndexArraySpec(1, layer.sparse.capacity)}


def pointers(keys: np.ndarray, count: int) -> np.ndarray:
    """int64 [count+1]: bounds of the runs of equal keys, of sorted keys in 0..count-1."""
    found = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=count), out=found[1:])
    return found


def stable_order(keys: np.ndarray) -> np.ndarray:
    """int64 [n]: stable sort of keys below 2**32, in linear time (NumPy sorts 16-bit keys by counting)."""
    order = np.argsort((keys & 0xFFFF).astype(np.uint16), kind="stable")
    high = keys >> 16
    if high.any():
        order = order[np.argsort(high[order].astype(np.uint16), kind="stable")]
    return order


def group_of(planes: np.ndarray, total: int, groups: int) -> np.ndarray:
    """Group of each plane: groups are runs of ceil(total / groups) planes; the last may be shorter or empty."""
    return planes // -(-total // groups)
