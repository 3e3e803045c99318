"""Index arrays of kept planes (channels or filters), and of values put back into a dense weight."""

from __future__ import annotations

import numpy as np

from mest_compiler.sparsity.structure import Structure

from ..geometry import ConvGeometry
from ..problem import LayerProblem
from .layer import IndexArraySpec, Indexing, filled


class KeptPlanes(Indexing):
    """`planes` [C or F]: the kept planes in rising order, then the removed ones; `entries` says how many are kept."""

    def forms(self, layer: LayerProblem, groups: int) -> dict[str, IndexArraySpec]:
        """`planes` and `entries`, whatever the groups."""
        total = layer.sparse.kind.grid(layer.sparse.shape)[1]
        return {"planes": IndexArraySpec(total, total), **filled(layer)}

    def arrays(self, structure: Structure, geometry: ConvGeometry, groups: int) -> dict[str, np.ndarray]:
        """The kept planes and the others; `entries` is filled elsewhere."""
        kept = structure.col[: structure.entries]
        removed = np.setdiff1d(np.arange(structure.spec.columns), kept)
        return {"planes": np.concatenate([kept, removed])}


class Places(Indexing):
    """`place` [capacity * unit_size]: where in the flat weight each value stands; `entries` says how many there are."""

    def forms(self, layer: LayerProblem, groups: int) -> dict[str, IndexArraySpec]:
        """`place` and `entries`, whatever the groups."""
        g = layer.geometry
        return {
            "place": IndexArraySpec(layer.sparse.capacity * layer.sparse.unit_size, g.filters * g.columns),
            **filled(layer),
        }

    def arrays(self, structure: Structure, geometry: ConvGeometry, groups: int) -> dict[str, np.ndarray]:
        """int64 [entries * unit_size], in the order of the values."""
        return {"place": structure.places().reshape(-1)}
