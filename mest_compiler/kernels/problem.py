"""What the kernels of a layer compute: a convolution over batch tiles, with a dense weight or a sparse one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from mest_compiler.sparsity.layer_spec import SparseLayerSpec

from .geometry import ConvGeometry

DIRECTIONS = ("forward", "backward_data", "backward_weight")


@dataclass(frozen=True)
class LayerProblem:
    """A layer as its kernels see it; a linear layer is a convolution with 1x1 kernels.

    Attributes:
        geometry: shapes and borders.
        sparse: how its weight is kept; None: dense.
    """

    geometry: ConvGeometry
    sparse: SparseLayerSpec | None = None

    @classmethod
    def of(cls, geometry: ConvGeometry, scheme: str, capacity: int) -> LayerProblem:
        """A sparse layer with the geometry's weight."""
        return cls(geometry, SparseLayerSpec(scheme, geometry.weight_shape, capacity))

    @property
    def held_shape(self) -> tuple[int, ...]:
        """Of the weight as a step holds it, and of its gradient: (capacity, unit_size) or (F, C / groups, kh, kw)."""
        return self.geometry.weight_shape if self.sparse is None else self.sparse.values_shape

    @property
    def held(self) -> int:
        """How many weights that are."""
        return prod(self.held_shape)

    @property
    def kept(self) -> float:
        """The largest share of the weights that is ever kept."""
        return self.held / prod(self.geometry.weight_shape)

    @property
    def forward_multiplications(self) -> float:
        """Of one pass over the whole batch, lanes without an example among them; each direction has as many."""
        g = self.geometry
        return float(g.tiles * g.lanes * g.y.height * g.y.width * self.held)

    def to_json(self) -> dict[str, Any]:
        """{"geometry"}, of a sparse layer also {"scheme", "capacity"}: the weight's shape is the geometry's."""
        said: dict[str, Any] = {"geometry": asdict(self.geometry)}
        if self.sparse is not None:
            said |= {"scheme": self.sparse.scheme, "capacity": self.sparse.capacity}
        return said

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LayerProblem:
        """Of what `to_json` gave, and maybe other keys."""
        geometry = ConvGeometry.from_json(stored["geometry"])
        return cls(geometry) if "scheme" not in stored else cls.of(geometry, stored["scheme"], stored["capacity"])
