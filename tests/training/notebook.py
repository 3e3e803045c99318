"""An engine without a network: what a method of sparse training asks of it, and what it does to the units."""

import numpy as np

from mest_compiler.sparsity.methods import METHODS, Clock, MaskUpdater, Need
from mest_compiler.sparsity.mutation_schedule import MutationSchedule
from mest_compiler.sparsity.schemes import get_scheme

EPOCHS = 12
LAYERS = {
    "a": ("unstructured", (6, 5, 3, 3), 0.8),
    "b": ("block:4x4", (8, 8, 1, 1), 0.5),
    "c": ("pattern", (4, 9, 3, 3), 0.8),
    "d": ("channel", (6, 10, 3, 3), 0.7),
    "e": ("filter", (10, 3, 1, 1), 0.7),
}


class Notebook:
    """An engine that only keeps units, and notes what it is asked."""

    offers = frozenset({Need.IMPORTANCE})

    def __init__(self, layers=LAYERS, seed=0):
        rng = np.random.default_rng(seed)
        self._layers = {name: (get_scheme(scheme), shape) for name, (scheme, shape, _) in layers.items()}
        self.units = {}
        for name, (scheme, shape) in self._layers.items():
            mask = scheme.random_mask(shape, layers[name][2], rng)
            self.units[name] = np.flatnonzero(scheme.mask_to_units(mask)).astype(np.int32)
        self.changes, self.coefficients, self.weight = [], [], {}

    def sparse_layers(self):
        return dict(self._layers)

    def kept_units(self):
        return {name: units.copy() for name, units in self.units.items()}

    def importance(self, coefficient):
        self.coefficients.append(coefficient)
        # a function of the epoch and of the unit alone
        self.weight = {name: (units * 7919 + len(self.changes)) % 101 / 101 for name, units in self.units.items()}
        return self.weight

    def mutate(self, changes):
        self.changes.append(changes)
        for name, change in changes.items():
            assert np.isin(change.survivors, self.units[name]).all() and np.isin(change.survivors, change.kept).all()
            self.units[name] = change.kept


def mest(*settings) -> MaskUpdater:
    """MEST's method with a schedule's settings."""
    schedule = MutationSchedule(*settings)
    return METHODS[schedule.method](*settings[1:])


def at(epoch: int) -> Clock:
    """So many epochs done of EPOCHS."""
    return Clock(epoch, EPOCHS)
