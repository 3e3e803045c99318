"""What is fixed of a sparse layer when it is compiled; its structure may change within that at run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from mest_compiler.errors import MestError, StructureError

from .schemes import Scheme, Shape, get_scheme

INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class SparseLayerSpec:
    """A sparse layer as compiled.

    Attributes:
        scheme: name of the scheme in the registry.
        shape: of the weight, (F, C, kh, kw); a linear layer's kernels are 1x1.
        capacity: the most entries (kept units) that the layer will ever have; fixes the sizes of all arrays.
    """

    scheme: str
    shape: Shape
    capacity: int

    @property
    def kind(self) -> Scheme:
        """The scheme itself."""
        return get_scheme(self.scheme)

    @property
    def rows(self) -> int:
        """Rows of the scheme's grid."""
        return self.kind.grid(self.shape)[0]

    @property
    def columns(self) -> int:
        """Columns of the scheme's grid."""
        return self.kind.grid(self.shape)[1]

    @property
    def unit_size(self) -> int:
        """Weights of an entry."""
        return self.kind.unit_size(self.shape)

    @property
    def values_shape(self) -> tuple[int, int]:
        """Of the compact values: (capacity, unit_size)."""
        return self.capacity, self.unit_size

    @property
    def values(self) -> int:
        """How many compact values there is room for."""
        return prod(self.values_shape)

    @property
    def dense_size(self) -> int:
        """Weights of the layer, zeros among them."""
        return prod(self.shape)

    def check(self) -> None:
        """Raise StructureError unless scheme, shape and capacity fit each other and are counted in int32."""
        if not isinstance(self.shape, tuple) or not all(isinstance(size, int) for size in (*self.shape, self.capacity)):
            raise StructureError(
                f"A structure has shape {self.shape!r} and capacity {self.capacity!r}: use a tuple of integers and an "
                "integer."
            )
        try:
            kind = self.kind
            kind.check_shape("(of the structure)", self.shape)
        except MestError as error:
            raise StructureError(f"The scheme of a structure does not fit its shape: {error}") from error
        if self.scheme != kind.name:
            raise StructureError(
                f"A structure says scheme {self.scheme!r} instead of {kind.name!r}: use the registry's name."
            )
        if self.capacity < 1:
            raise StructureError(
                f"A layer of shape {self.shape} cannot have a capacity of {self.capacity} entries: use at least 1."
            )
        check_int32(self.dense_size, f"weights in a layer of shape {self.shape}", "split the layer")
        check_int32(self.values, f"values in the capacity of a layer of shape {self.shape}", "lower the capacity")

    def to_json(self) -> dict[str, Any]:
        """{"scheme", "shape", "capacity"}, as a manifest has it."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SparseLayerSpec:
        """Of a mapping with these three keys, and maybe others."""
        return cls(stored["scheme"], tuple(stored["shape"]), stored["capacity"])


def check_int32(size: int, what: str, advice: str) -> None:
    """Raise StructureError when a count is out of the range of the kernels' 32-bit indices."""
    if size > INT32_MAX:
        raise StructureError(f"There are {size} {what}, more than 32-bit indices can reach: {advice}.")
