"""What a family of kernels says of itself: which layers it serves, which index arrays it reads, what it computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from tvm import tirx

from ..indices.layer import IndexArraySpec, Indexing
from ..problem import LayerProblem


class KernelFamily(ABC):
    """Kernels that find a layer's kept weights in one way. A new one is a file beside this one, a line in `FAMILIES`,
    and on each kind of device a generator (see `schedules.generator`).

    Attributes:
        name: the key of its generators; stands as "indexing" in manifests and tuning records.
        indexings: by direction, the index arrays that its kernels read; {} where they read none.
        dense_above: kept share above which the dense kernel with zeros put back is probably faster.
    """

    name: str
    indexings: ClassVar[Mapping[str, Indexing]] = {}
    dense_above: float = 1.0

    @abstractmethod
    def serves(self, problem: LayerProblem, direction: str) -> bool:
        """Whether the family has a kernel for a direction of such a layer."""

    @abstractmethod
    def definition(self, problem: LayerProblem, direction: str, groups: int) -> tirx.PrimFunc:
        """What its kernels compute, as plain loops, with index arrays of so many groups of planes."""

    def tuned_as(self, problem: LayerProblem) -> tuple[str, LayerProblem]:
        """(name of a family, layer) as which its kernels are tuned."""
        return self.name, problem

    def index_arrays(self, problem: LayerProblem, direction: str, groups: int) -> dict[str, IndexArraySpec]:
        """Form of every index array that one kernel takes, in argument order."""
        return self.indexings[direction].forms(problem, groups) if self.indexings else {}

    def dtypes(self, problem: LayerProblem, direction: str, groups: int) -> dict[str, str]:
        """Element type of each of them, in argument order."""
        return {name: form.dtype for name, form in self.index_arrays(problem, direction, groups).items()}
