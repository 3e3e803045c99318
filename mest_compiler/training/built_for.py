"""What a run's network is built for, as its checkpoint says it: with it whoever has no data can still read the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mest_compiler.errors import CheckpointError
from mest_compiler.losses.base import INPUT
from mest_compiler.signature import TensorSpec
from mest_compiler.training.examples import Examples


@dataclass(frozen=True)
class BuiltFor:
    """inputs, sizes: those of the data, see `Examples`."""

    inputs: Mapping[str, TensorSpec]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, data: Examples) -> BuiltFor:
        """What a network for these data is built for."""
        return cls(dict(data.inputs), dict(data.sizes))

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"inputs": {n: [list(s.shape), s.dtype] for n, s in self.inputs.items()}, "sizes": dict(self.sizes)}

    @classmethod
    def from_json(cls, content: Any, source: str) -> BuiltFor:
        """Back from `to_json`; CheckpointError, naming `source`, when it is something else."""
        try:
            if "input_shape" in content:  # of a version that knew images only
                shape = tuple(content["input_shape"])
                sizes = {"classes": content["classes"], "in_channels": shape[0]}
                return cls({INPUT: TensorSpec(shape, "float32")}, sizes)
            inputs = {str(n): TensorSpec(tuple(shape), str(dtype)) for n, (shape, dtype) in content["inputs"].items()}
            return cls(inputs, dict(content["sizes"]))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f"{source} does not say what its network is built for ({error!r}): use another one"
            ) from None

    def __str__(self) -> str:
        """As a sentence has it."""
        sizes = [f"{name} {size}" for name, size in self.sizes.items()]
        return ", ".join([*(f"{name} {s.dtype} {list(s.shape)}" for name, s in self.inputs.items()), *sizes])
