"""What dropouts drop: drawn from a trainer's seed and the number of its step, and continued from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mest_compiler.runtime.trainer import Trainer, step_seed

from ..whole_step.cases import Case, compiled
from ..whole_step.training import MaskedTraining, batch, check_equal
from .states import all_state, check_same_bits

CASE = Case("dropout", "unstructured", batch=5)


def fresh(seed: int) -> Trainer:
    """A trainer of the network with dropouts."""
    return Trainer(compiled(CASE).artifact, seed=seed)


def train(trainer: Trainer, steps: int) -> list[tuple[float, bytes]]:
    """Steps on one and the same batch: (loss, bytes of the logits) of each."""
    x, y = batch(CASE.batch, CASE.shape, 0)
    found = [trainer.step(x.numpy(), y.numpy(), 0.01) for _ in range(steps)]
    return [(loss, logits.tobytes()) for loss, logits in found]


def test_a_run_is_its_seed() -> None:
    first, same, other = fresh(3), fresh(3), fresh(4)
    losses = train(first, 2)
    assert losses == train(same, 2)
    check_same_bits(all_state(first), all_state(same))
    assert losses[0] != train(other, 1)[0]


def test_every_step_drops_others() -> None:
    trainer = fresh(0)
    x, y = batch(CASE.batch, CASE.shape, 0)
    losses = {trainer.step(x.numpy(), y.numpy(), 0.0)[0] for _ in range(4)}
    assert len(losses) == 4
    assert len({int(step_seed(seed, step)) for seed in range(50) for step in range(50)}) == 2500


def test_the_masks_are_those_of_the_seed() -> None:
    trainer = fresh(11)
    reference = MaskedTraining(compiled(CASE).model, trainer.masks(), CASE.rule)
    reference.seed = 11
    x, y = batch(CASE.batch, CASE.shape, 0)
    trainer.step(x.numpy(), y.numpy(), 0.1)
    reference.step(x, y, 0.1)
    check_equal("state", trainer.state(), reference.state())


def test_a_resumed_run_drops_what_it_would_have_dropped(tmp_path: Path) -> None:
    trainer = fresh(2**63)
    train(trainer, 3)
    trainer.save(tmp_path / "here", {})
    resumed = fresh(0)
    resumed.load(tmp_path / "here")
    assert (resumed.seed, resumed.steps) == (2**63, 3)
    assert train(resumed, 2) == train(trainer, 2)
    check_same_bits(all_state(resumed), all_state(trainer))


def test_a_prediction_drops_nothing() -> None:
    a, b = fresh(0), fresh(1)
    x, _ = batch(7, CASE.shape, 5)
    np.testing.assert_array_equal(a.predict(x.numpy()), b.predict(x.numpy()))
    assert a.steps == 0


@pytest.mark.parametrize(("case", "seeded"), [(CASE, True), (Case("pre-activation", "block"), False)])
def test_only_a_step_with_a_dropout_takes_a_seed(case: Case, seeded: bool) -> None:
    built = compiled(case)
    assert built.artifact.manifest["seeded"] is seeded
    functions = {name: [v.name for v in built.lowered.module[name].params] for name in ("step", "predict")}
    assert ("seed" in functions["step"]) is seeded and "seed" not in functions["predict"]
