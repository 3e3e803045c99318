"""Mutates a backend's network as a schedule says: the one place where a run's masks change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mest_compiler.errors import CheckpointError
from mest_compiler.sparsity.mutation import Change, check_balanced, grow_to, remove_to
from mest_compiler.sparsity.mutation_schedule import MutationSchedule, Phase, units_at
from mest_compiler.training.backend import Backend
from mest_compiler.training.streams import stream


@dataclass(frozen=True)
class Mutated:
    """What one mutation did, in weights: how many were removed and how many grown."""

    removed: int
    grown: int


class Mutator:
    """Every random draw comes from one generator, whose state goes into checkpoints, layer by layer in the order of the
    backend's `sparse_layers`."""

    def __init__(self, schedule: MutationSchedule, backend: Backend, seed: int) -> None:
        """The units that the backend keeps now are its target sparsity.

        Raises:
            ProfileError: the schedule asks for more or fewer units than a layer can keep.
            MaskError: a layer's rows do not keep equally many units, and its scheme mutates balanced ones only.
        """
        self.schedule = schedule
        self._backend = backend
        self._layers = backend.sparse_layers()
        units = backend.kept_units()
        self._base = {name: len(kept) for name, kept in units.items()}
        self._rng = stream(seed, "mutation")
        phases = {phase for epoch in range(schedule.until + 1) for phase in schedule.phases(epoch)}
        for name, (scheme, shape) in self._layers.items() if phases else ():
            check_balanced(name, scheme, shape, units[name])
            for phase in phases:
                self._count(name, phase)

    def _count(self, name: str, phase: Phase) -> int:
        return units_at(name, *self._layers[name], self._base[name], phase.offset)

    def after(self, epoch: int) -> Mutated:
        """Do what is due when `epoch` epochs are done; 0: before the first."""
        phases = self.schedule.phases(epoch)
        if not phases or not self._layers:
            return Mutated(0, 0)
        weights = None
        if not phases[0].grow:
            weights = self._backend.importance(self.schedule.coefficient)
        changes, removed, grown = {}, 0, 0
        all_units = self._backend.kept_units()
        for name, (scheme, shape) in self._layers.items():
            survivors = kept = units = all_units[name]
            for phase in phases:
                count = self._count(name, phase)
                if phase.grow:
                    kept = grow_to(scheme, shape, kept, count, self._rng)
                else:
                    survivors = kept = remove_to(scheme, shape, kept, weights[name], count)
            changes[name] = change = Change(survivors, kept)
            removed += (len(units) - len(survivors)) * scheme.unit_size(shape)
            grown += change.grown * scheme.unit_size(shape)
        self._backend.mutate(changes)
        return Mutated(removed, grown)

    def kept(self) -> tuple[int, int]:
        """(weights that the sparse layers keep, weights that they would have without their masks)."""
        units = self._backend.kept_units()
        sizes = {name: scheme.unit_size(shape) for name, (scheme, shape) in self._layers.items()}
        whole = sum(int(np.prod(shape)) for _, shape in self._layers.values())
        return sum(len(units[name]) * size for name, size in sizes.items()), whole

    def state(self) -> dict[str, Any]:
        """JSON values: the generator's state, and how many units each layer keeps at its target sparsity."""
        return {"generator": self._rng.bit_generator.state, "base": dict(self._base)}

    def restore(self, state: dict[str, Any], source: str) -> None:
        """Go on from `state`; CheckpointError, naming `source`, when it is of something else."""
        try:
            base, generator = dict(state["base"]), state["generator"]
            if base.keys() != self._base.keys():
                raise CheckpointError(f"{source} is of a run with other sparse layers: resume with its own")
            for name, (scheme, shape) in self._layers.items():
                if type(base[name]) is not int or not 0 <= base[name] <= scheme.most_kept(shape):
                    raise ValueError(f"layer {name!r} cannot keep {base[name]!r} units")
            self._rng.bit_generator.state = generator
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{source} holds no state of a mutation ({error}): use another one") from None
        self._base = base
