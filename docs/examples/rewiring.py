"""Random rewiring, the control of every method that chooses: what goes and what comes is drawn, after every epoch."""

from __future__ import annotations

from dataclasses import dataclass

from mest_compiler.sparsity.methods import MaskUpdater


@dataclass(frozen=True)
class RandomRewiring(MaskUpdater):
    """rewired: fraction of what a layer keeps, in (0, 1)."""

    rewired: float = 0.3

    name, what = "random", "draw what is removed and what is grown"

    def ranges(self):
        """A fraction."""
        return {"rewired": (0 < self.rewired < 1, "above 0 and below 1")}

    def due(self, clock):
        """After every epoch but the last."""
        return not clock.step and 0 < clock.epoch < clock.epochs

    def changes(self, layers, network, clock, rng):
        """Down and up again, layer by layer."""
        from mest_compiler.sparsity.mutation import Change, grow_to, remove_to

        found = {}
        for name, layer in layers.items():
            drawn, count = rng.random(len(layer.kept)), layer.left(name, self.rewired)
            survivors = remove_to(layer.scheme, layer.shape, layer.kept, drawn, count)
            found[name] = Change(survivors, grow_to(layer.scheme, layer.shape, survivors, layer.target, rng))
        return found
