"""Changes the masks of an engine's network as a method says: the one place where a run's masks change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mest_compiler.errors import CheckpointError, MestError
from mest_compiler.sparsity.methods import Clock, MaskedLayer, MaskUpdater
from mest_compiler.training.engine import TrainingEngine
from mest_compiler.training.streams import stream


@dataclass(frozen=True)
class Mutated:
    """What one mutation did, in weights: how many were removed and how many grown."""

    removed: int
    grown: int


class Mutator:
    """Runs a method. Every random draw comes from one generator, whose state goes into checkpoints, layer by layer in
    the order of the engine's `sparse_layers`."""

    def __init__(self, updater: MaskUpdater, engine: TrainingEngine, seed: int) -> None:
        """The units that the engine keeps now are its target sparsity.

        Raises:
            MestError: the method needs what the engine does not offer. ProfileError: it asks for more or fewer units
                than a layer can keep. MaskError: a layer's rows do not keep equally many units, and its scheme mutates
                balanced ones only.
        """
        check_needs(updater, engine)
        self._updater = updater
        self._engine = engine
        self._sparse = engine.sparse_layers()
        self._base = {name: len(kept) for name, kept in engine.kept_units().items()}
        self._rng = stream(seed, "mutation")
        updater.check(self._layers())

    def _layers(self) -> dict[str, MaskedLayer]:
        """As they are now."""
        units = self._engine.kept_units()
        return {name: MaskedLayer(*both, self._base[name], units[name]) for name, both in self._sparse.items()}

    def after(self, clock: Clock) -> Mutated:
        """Do what is due now."""
        if not self._sparse or not self._updater.due(clock):
            return Mutated(0, 0)
        layers = self._layers()
        changes = self._updater.changes(layers, self._engine, clock, self._rng)
        removed = grown = 0
        for name, change in changes.items():
            layer = layers[name]
            size = layer.scheme.unit_size(layer.shape)
            removed += (len(layer.kept) - len(change.survivors)) * size
            grown += change.grown * size
        self._engine.mutate(changes)
        return Mutated(removed, grown)

    def kept(self) -> tuple[int, int]:
        """(weights that the sparse layers keep, weights that they would have without their masks)."""
        units = self._engine.kept_units()
        sizes = {name: scheme.unit_size(shape) for name, (scheme, shape) in self._sparse.items()}
        whole = sum(int(np.prod(shape)) for _, shape in self._sparse.values())
        return sum(len(units[name]) * size for name, size in sizes.items()), whole

    def state(self) -> dict[str, Any]:
        """JSON values: the generator's state, how many units each layer keeps at its target sparsity, and the
        method's own state."""
        return {
            "generator": self._rng.bit_generator.state,
            "base": dict(self._base),
            "method": self._updater.state(),
        }

    def restore(self, state: dict[str, Any], source: str) -> None:
        """Go on from `state`; CheckpointError, naming `source`, when it is of something else."""
        try:
            base, generator, rng = dict(state["base"]), state["generator"], np.random.default_rng()
            if base.keys() != self._base.keys():
                raise CheckpointError(f"{source} is of a run with other sparse layers: resume with its own")
            for name, (scheme, shape) in self._sparse.items():
                if type(base[name]) is not int or not 0 <= base[name] <= scheme.most_kept(shape):
                    raise ValueError(f"layer {name!r} cannot keep {base[name]!r} units")
            rng.bit_generator.state = generator
            self._updater.restore(state.get("method", {}))  # versions whose methods had no state wrote none
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{source} holds no state of a mutation ({error}): use another one") from None
        self._base, self._rng = base, rng


def check_needs(updater: MaskUpdater, engine: TrainingEngine | type[TrainingEngine]) -> None:
    """Raise MestError where a method needs what an engine, or all of its class, does not offer."""
    missing = [need.value for need in updater.needs - engine.offers]
    if missing:
        raise MestError(
            f"Method {updater.name!r} needs {' and '.join(sorted(missing))}, which this backend does not offer: choose "
            "another backend, or another method."
        )
