"""Learning rates at the steps where they are known."""

import pytest

from mest_compiler.training.recipe import Recipe
from mest_compiler.training.schedule import cosine, step_decay


def test_cosine_starts_at_lr_ends_at_end_lr_and_is_half_way_in_the_middle():
    rates = [cosine(step, total_steps=11, lr=0.1, end_lr=0.02) for step in range(11)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[5] == pytest.approx(0.06)
    assert rates[10] == pytest.approx(0.02)
    assert rates == sorted(rates, reverse=True)


def test_warm_up_is_linear_and_hands_over_at_lr():
    rates = [cosine(step, total_steps=20, lr=0.4, warmup_steps=4) for step in range(6)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert rates[5] < 0.4


def test_cosine_of_one_step_after_warm_up_is_lr():
    assert cosine(4, total_steps=5, lr=0.4, warmup_steps=4) == 0.4


def test_step_decay_drops_at_its_boundaries():
    rates = [step_decay(step, boundaries=[4, 6], factor=0.1, lr=1.0, warmup_steps=2) for step in range(7)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01])


def test_a_recipe_counts_in_epochs():
    cosine_recipe = Recipe(model="m", data="d", epochs=4, lr=0.2, end_lr=0.1, warmup_epochs=1)
    assert cosine_recipe.learning_rate(9, 10) == pytest.approx(0.2)
    assert cosine_recipe.learning_rate(39, 10) == pytest.approx(0.1)
    stepped = Recipe(model="m", data="d", epochs=4, lr=0.2, schedule="step", milestones=(2, 3), decay=0.5)
    assert [stepped.learning_rate(s, 10) for s in (19, 20, 30)] == pytest.approx([0.2, 0.1, 0.05])
