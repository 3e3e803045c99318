"""Methods of sparse training: which masks they walk through, what they need, what they remember."""

import json
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
import pytest

from mest_compiler.errors import CheckpointError, MaskError, MestError, ProfileError
from mest_compiler.sparsity.methods import METHODS, Clock, MaskUpdater, Need, Set
from mest_compiler.sparsity.mutation import Change
from mest_compiler.training.going_on import longer
from mest_compiler.training.mutator import Mutator
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.records import Position
from mest_compiler.training.run_reading import described

from .notebook import EPOCHS, LAYERS, Notebook, at, mest

# Recorded before methods had an interface; a change of these is another algorithm under an old name.
MASKS = {
    ("vanilla", 0): "2769d029f0f69ed0", ("vanilla", 7): "598a6314ed33c6c2", ("em", 0): "ce8e9b97fb542624",
    ("em", 7): "0a57095b8c84dc52", ("em&s", 0): "85d47003c0b2fad8", ("em&s", 7): "f87116a73578f051",
}  # fmt: skip


def walked(updater: MaskUpdater, seed: int, layers=LAYERS) -> tuple[str, Notebook]:
    """Digest of all masks of a run, and its engine at the end."""
    engine, digest = Notebook(layers), sha256()
    mutator = Mutator(updater, engine, seed)
    for epoch in range(EPOCHS):
        mutator.after(at(epoch))
        for units in engine.units.values():
            digest.update(units.tobytes())
    return digest.hexdigest()[:16], engine


@pytest.mark.parametrize(("method", "seed"), MASKS)
def test_masks_are_those_of_every_version_before(method, seed):
    assert walked(mest(method, 0.11, 2, 9, (4,), 0.5, 0.01), seed)[0] == MASKS[method, seed]


def test_set_is_vanilla_with_zeta_of_what_a_layer_keeps_and_no_gradient():
    layers = {name: (scheme, shape, 0.8) for name, (scheme, shape, _) in LAYERS.items() if name in "ac"}
    found, engine = walked(Set(), 3, layers)
    assert found == walked(mest("vanilla", 0.3 * 0.2, 1, EPOCHS, (), 0.5, 0.0), 3, layers)[0]
    assert len(engine.changes) == EPOCHS - 1 and set(engine.coefficients) == {0.0}
    # 54 of 270 weights are kept, 30 % of them go: 38 stay
    assert {len(changes["a"].survivors) for changes in engine.changes} == {38}
    assert {len(changes["a"].kept) for changes in engine.changes} == {54}


def test_set_mutates_after_every_epoch_but_the_last_unless_told_otherwise():
    def due(updater, epochs):
        return [epoch for epoch in range(epochs + 1) if updater.due(Clock(epoch, epochs))]

    assert due(Set(), 5) == [1, 2, 3, 4] and due(Set(), 8) == list(range(1, 8))
    assert due(Set(mutate_every=2, mutate_until=6), 9) == [2, 4]
    assert not Set().due(Clock(2, 5, step=1)) and not mest("em", 0.1, 1, 5).due(Clock(2, 5, step=1))
    assert not Set().changes_masks(1) and Set().changes_masks(2)


def test_a_run_says_its_method_and_how_it_goes_on_with_more_epochs():
    fields = {"model": "m", "data": "rows", "scheme": "block", "sparsity": 0.5, "lr": 0.1, "epochs": 4}
    recipe = Recipe(**fields, method="set", settings={"zeta": 0.2})
    assert described(recipe) == "m, rows, block 0.5, set zeta 0.2 mutate_every 1"
    assert longer(recipe, replace(recipe, epochs=6), Position(4), 6).endswith("; mutation goes on with them")
    recipe = Recipe(**fields, method="em", mutate_every=1, mutate_until=3)
    assert described(recipe).endswith(", em p 0.05 every 1 until 3")
    assert longer(recipe, replace(recipe, epochs=6), Position(4), 6).endswith("; mutation stays until epoch 3")


@pytest.mark.parametrize("given", [{"zeta": 0}, {"zeta": 1}, {"mutate_every": 0}, {"mutate_until": -1}], ids=str)
def test_a_setting_of_set_that_cannot_be_is_named(given):
    with pytest.raises(ProfileError, match=f"^{next(iter(given))} of method 'set' is "):
        Set(**given)


def test_set_names_a_layer_whose_rows_cannot_mutate():
    engine = Notebook()
    engine.units["c"] = engine.units["c"][:-1]
    with pytest.raises(MaskError, match="Layer 'c' keeps 3 to 4 units"):
        Mutator(Set(), engine, 0)


@dataclass
class Counting(MaskUpdater):
    """Cuts the last unit of one layer; remembers how often it was asked."""

    asked: int = field(default=0, init=False)

    name, what = "counting", "counts"

    def due(self, clock):
        return True

    def changes(self, layers, network, clock, rng):
        self.asked += 1
        kept = layers["a"].kept[:-1]
        return {"a": Change(kept, kept)}

    def state(self):
        return {"asked": self.asked}

    def restore(self, state):
        self.asked = int(state["asked"])


def test_a_method_may_remember_and_leave_layers_alone():
    engine = Notebook()
    mutator = Mutator(Counting(), engine, 0)
    assert mutator.after(at(0)).removed == 1 and mutator.after(Clock(0, EPOCHS, step=3)).grown == 0
    assert {name for changes in engine.changes for name in changes} == {"a"}
    state = json.loads(json.dumps(mutator.state()))
    again = Counting()
    Mutator(again, Notebook(), 0).restore(state, "here")
    assert again.asked == 2 and again.setting_names() == ()
    with pytest.raises(CheckpointError, match=r"here holds no state of a mutation \(method 'set' has no state"):
        Mutator(Set(), Notebook(), 0).restore(state, "here")


@pytest.mark.parametrize("method", ["em", "set"])
def test_a_checkpoint_of_before_methods_had_a_state_goes_on(method):
    updater = replace(METHODS[method](), mutate_until=EPOCHS, mutate_every=1)
    whole, resumed = Notebook(), Notebook()
    mutator = Mutator(updater, whole, 5)
    for epoch in range(3):
        mutator.after(at(epoch))
    resumed.units, resumed.changes = whole.kept_units(), list(whole.changes)
    other, state = Mutator(updater, resumed, 0), mutator.state()
    assert state.pop("method") == {}
    other.restore(json.loads(json.dumps(state)), "here")
    for clock in (at(3), at(4)):
        assert mutator.after(clock) == other.after(clock)
        for name, units in whole.units.items():
            np.testing.assert_array_equal(resumed.units[name], units)


def test_what_a_engine_does_not_offer_is_said():
    class Dense(Counting):
        name, needs = "dense", frozenset({Need.DENSE_GRADIENT, Need.IMPORTANCE})

    with pytest.raises(MestError, match=r"Method 'dense' needs the gradients of weights that are not kept, which this"):
        Mutator(Dense(), Notebook(), 0)
