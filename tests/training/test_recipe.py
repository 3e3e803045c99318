"""Recipes as files: read, written, and refused with a sentence that helps."""

import pytest

from mest_compiler.errors import MestError
from mest_compiler.training.recipe import Recipe, available_recipes, load_recipe

MINIMAL = "model: resnet20\ndata: mnist\nepochs: 2\n"


def write(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_dump_and_load_give_the_recipe_back(tmp_path):
    recipe = Recipe(model="vgg19_bn", data="cifar10", epochs=9, end_lr=4e-8, schedule="step", milestones=(3, 6))
    recipe.dump(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


def test_numbers_that_yaml_takes_for_text_are_read(tmp_path):
    recipe = Recipe.load(write(tmp_path, MINIMAL + "end_lr: 4e-8\nweight_decay: 1e-4\nwidth: 2\n"))
    assert (recipe.end_lr, recipe.weight_decay, recipe.width) == (4e-8, 1e-4, 2.0)


def test_relative_paths_start_at_the_files_folder(tmp_path):
    text = "model: nets/net.py:build\ndata: cifar10\nepochs: 2\nprofile: p.yaml\ndata_root: /data\n"
    recipe = Recipe.load(write(tmp_path, text))
    assert recipe.model == f"{tmp_path}/nets/net.py:build"
    assert (recipe.profile, recipe.data_root) == (str(tmp_path / "p.yaml"), "/data")


def test_the_demo_is_what_the_readme_says():
    demo = load_recipe("demo")
    assert (demo.model, demo.data, demo.scheme, demo.sparsity) == ("resnet20", "mnist", "block", 0.9)
    assert (demo.batch, demo.lr, demo.schedule) == (64, 0.1, "cosine")


@pytest.mark.parametrize("name", available_recipes())
def test_every_recipe_of_the_package_loads(name):
    assert load_recipe(name).epochs > 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (MINIMAL + "learning: 1\n", "unknown key 'learning': the keys are model, data"),
        (MINIMAL + "sparsty: 0.9\n", "unknown key 'sparsty': did you mean 'sparsity'"),
        (MINIMAL + "3: 0.9\n", "unknown key 3"),
        ("model: resnet20\n", "lacks the keys data, epochs"),
        ("- resnet20\n", "is no recipe"),
        ("model: [\n", "is not YAML"),
        (MINIMAL + "batch: 6.5\n", "batch of a recipe is a whole number, not 6.5"),
        (MINIMAL + "batch: true\n", "batch of a recipe is a whole number, not True"),
        (MINIMAL + "batch: 0\n", "batch of a recipe is at least 1, not 0"),
        (MINIMAL + "lr: fast\n", "lr of a recipe is a number, not 'fast'"),
        (MINIMAL + "lr: .nan\n", "lr of a recipe is a number, not nan"),
        (MINIMAL + "augment: 1\n", "augment of a recipe is true or false, not 1"),
        (MINIMAL + "end_lr: 0.2\n", "end_lr of a recipe is between 0 and lr, not 0.2"),
        (MINIMAL + "warmup_epochs: 2\n", "warmup_epochs of a recipe is at least 0 and below epochs"),
        (MINIMAL + "schedule: linear\n", "schedule of a recipe is one of cosine, step"),
        (MINIMAL + "milestones: [1]\n", "milestones of a recipe is left out unless"),
        (MINIMAL + "milestones: 1\n", "milestones of a recipe is a list of whole numbers"),
        (MINIMAL + "scheme: block\n", "names a scheme and its sparsity together"),
        (MINIMAL + "scheme: block\nsparsity: 1\n", "sparsity of a recipe is at least 0 and below 1, not 1.0"),
        (MINIMAL + "profile: p.yaml\nscheme: block\nsparsity: 0.9\n", "not both"),
        (MINIMAL + "x: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    ],
)
def test_wrong_recipes_are_refused(tmp_path, text, sentence):
    with pytest.raises(MestError, match=sentence):
        Recipe.load(write(tmp_path, text))


def test_missing_recipes_are_named(tmp_path):
    with pytest.raises(MestError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.yaml"))
    with pytest.raises(MestError, match=r"unknown recipe 'dmo': choose one of demo, .*or name a \.yaml file"):
        load_recipe("dmo")
