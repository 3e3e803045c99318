"""Inputs, targets and outputs of a step as arrays: one alone where there is one, or all by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mest_compiler.errors import ArtifactError
from mest_compiler.losses.base import alone, named
from mest_compiler.signature import TensorSpec

Arrays = np.ndarray | Mapping[str, np.ndarray]
"""An array [N, ...], or several by name."""


class NamedArrays:
    """What an artifact's step takes and gives of an example. inputs, targets, outputs: shape and dtype by name."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        kinds = ("inputs", "targets", "outputs")
        self.inputs, self.targets, self.outputs = (
            {name: TensorSpec(tuple(shape), dtype) for name, (shape, dtype) in manifest[kind].items()} for kind in kinds
        )

    def taken(self, kind: str, given: Arrays, batch: int | None = None) -> dict[str, np.ndarray]:
        """All arrays of a kind, "inputs" or "targets", by name. batch: how many examples; None: any.

        Raises:
            ArtifactError: they have other names or shapes.
        """
        wanted: dict[str, TensorSpec] = getattr(self, kind)
        arrays = named(given, next(iter(wanted), ""))
        if set(arrays) != set(wanted):
            raise ArtifactError(f"The artifact takes the {kind} {', '.join(wanted)}, and got {', '.join(arrays)}.")
        arrays = {name: np.asarray(arrays[name]) for name in wanted}
        count = batch
        for name, spec in wanted.items():
            found = arrays[name].shape
            count = (found[0] if found else 0) if count is None else count
            if found != (count, *spec.shape) or count < 1:
                shape = ", ".join(map(str, (count or "N", *spec.shape)))
                other = ", or compile it for another batch" if batch else ""
                raise ArtifactError(
                    f"The artifact takes {name} of shape [{shape}], and got {list(found)}: give that{other}."
                )
        return arrays

    def given(self, outputs: Sequence[np.ndarray]) -> Arrays:
        """The only output, or all by name."""
        return alone(dict(zip(self.outputs, outputs, strict=True)))

    def of_outputs(self, given: Arrays) -> Mapping[str, np.ndarray]:
        """By name, whatever `given` made of them."""
        return named(given, next(iter(self.outputs)))
