"""Recipes, the options that overrule them, and which of them takes the place of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from mest_compiler.cli.recipe_options import chosen_recipe
from mest_compiler.errors import MestError
from mest_compiler.optimizers import AdamW
from mest_compiler.sparsity.methods import Set
from mest_compiler.training.recipe import available_recipes

RUN = Path("runs/net")


def test_options_overrule_a_recipe() -> None:
    given = {"epochs": 8, "lr": None, "milestones": "3,5", "schedule": "step", "model": "net.py:make", "p": 0.02}
    recipe = chosen_recipe("demo", RUN, False, given | {"p_milestones": "2", "noise": 0.5, "examples": 100})
    assert (recipe.epochs, recipe.lr, recipe.milestones) == (8, 0.1, (3, 5))
    assert (recipe.method, recipe.p, recipe.p_milestones) == ("em", 0.02, (2,))
    assert (recipe.noise, recipe.examples) == (0.5, 100)
    assert recipe.model == f"{Path.cwd() / 'net.py'}:make"
    assert (recipe.scheme, recipe.sparsity) == ("block", 0.9)


def test_another_method_or_optimiser_has_its_own_usual_settings(tmp_path: Path) -> None:
    recipe = chosen_recipe("demo", RUN, False, {"method": "set", "settings": "zeta=0.2", "optimizer": "adamw"})
    assert (recipe.mutate_every, recipe.mutate_until, recipe.p, recipe.importance_lambda) == (1, None, None, None)
    assert (recipe.updater, recipe.rule) == (Set(0.2), AdamW())
    recipe.dump(tmp_path / "set.yaml")
    name = str(tmp_path / "set.yaml")
    assert chosen_recipe(name, RUN, False, {}) == recipe
    assert chosen_recipe(name, RUN, False, {"epochs": 5}).updater == Set(0.2)
    back = chosen_recipe(name, RUN, False, {"method": "em", "mutate_every": 2, "mutate_until": 3})
    assert (back.settings, back.p, back.mutate_every) == ({}, 0.05, 2)


def test_one_way_takes_the_place_of_the_other(tmp_path: Path) -> None:
    recipe = chosen_recipe("demo", RUN, False, {"profile": tmp_path / "profile.yaml"})
    assert (recipe.scheme, recipe.sparsity, recipe.profile) == (None, None, str(tmp_path / "profile.yaml"))
    recipe = chosen_recipe("mnist-ems-de", RUN, False, {"de_remove": 500})
    assert (recipe.de_epoch, recipe.de_threshold, recipe.de_remove) == (14, None, 500)


def test_masks_take_the_place_of_a_recipes_ratio(tmp_path: Path) -> None:
    recipe = chosen_recipe("demo", RUN, False, {"masks_from": tmp_path / "w.pt"})
    assert (recipe.scheme, recipe.sparsity, recipe.masks_from) == ("block", None, str(tmp_path / "w.pt"))
    assert chosen_recipe("demo", RUN, False, {"masks": tmp_path / "m.npz", "sparsity": 0.8}).sparsity == 0.8
    recipe = chosen_recipe("demo", RUN, False, {"weights": tmp_path / "w.pt", "weights_key": "ema"})
    assert (recipe.scheme, recipe.sparsity, recipe.weights_key) == ("block", 0.9, "ema")
    recipe.dump(tmp_path / "recipe.yaml")
    again = chosen_recipe(str(tmp_path / "recipe.yaml"), RUN, False, {"masks_from": tmp_path / "w.pt"})
    assert (again.weights, again.weights_key, again.sparsity) == (None, None, None)
    both = chosen_recipe(str(tmp_path / "recipe.yaml"), RUN, False, {"masks": tmp_path / "m.npz"})
    assert (both.weights, both.weights_key) == (recipe.weights, "ema")
    given = {"profile": tmp_path / "p.yaml", "scheme": "pattern", "profile_ratios": "kernels"}
    recipe = chosen_recipe("demo", RUN, False, given)
    assert (recipe.scheme, recipe.sparsity, recipe.profile_ratios) == ("pattern", None, "kernels")


def test_what_makes_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(MestError, match="lacks the keys model, data, epochs"):
        chosen_recipe(None, tmp_path, False, {})
    with pytest.raises(MestError, match="holds no run to resume"):
        chosen_recipe(None, tmp_path, True, {})


def test_every_recipe_is_listed(mest) -> None:
    listed = mest("train", "--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == available_recipes()
    assert all(len(line.split()) > 4 for line in listed)


def test_a_loss_that_takes_no_labels_is_refused_before_compiling(refused, folder: Path) -> None:
    Path("r.yaml").write_text("model: net.py:make\ndata: mnist\nepochs: 1\nloss: mse\n")
    sentence = "Loss 'mse' takes y float32 [batch, 10] of this model's outputs, and data set mnist has y int64 [batch]"
    assert sentence in refused("train", "r.yaml")
    assert not Path("runs").exists()
