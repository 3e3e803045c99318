"""Recipes as files: read, written, and refused with a sentence that helps."""

import dataclasses

import pytest
import yaml

from mest_compiler.errors import CheckpointError, MestError
from mest_compiler.training.going_on import check_recipe
from mest_compiler.training.recipe import Recipe, available_recipes, described_recipes, load_recipe

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
    text = "model: nets/net.py:build\ndata: cifar10\nepochs: 2\nprofile: p.yaml\ndata_root: /data\nweights: w.pt\n"
    recipe = Recipe.load(write(tmp_path, text))
    assert recipe.model == f"{tmp_path}/nets/net.py:build"
    assert (recipe.profile, recipe.data_root) == (str(tmp_path / "p.yaml"), "/data")
    assert (recipe.weights, recipe.masks) == (str(tmp_path / "w.pt"), None)


@pytest.mark.parametrize("more", ["masks: m.npz", "masks_from: w.pt", "profile: p.yaml"])
def test_a_scheme_is_enough_where_something_else_says_the_ratios(tmp_path, more):
    assert Recipe.load(write(tmp_path, MINIMAL + f"scheme: block\n{more}\n")).sparsity is None


def test_the_demo_is_what_the_readme_says():
    demo = load_recipe("demo")
    assert (demo.model, demo.data, demo.scheme, demo.sparsity) == ("resnet20", "mnist", "block", 0.9)
    assert (demo.batch, demo.lr, demo.schedule) == (64, 0.1, "cosine")
    assert (demo.method, demo.p) == ("em", 0.02)


CIFAR = {
    "epochs": 160, "batch": 64, "schedule": "cosine", "lr": 0.1, "end_lr": 4e-8, "momentum": 0.9, "mutate_until": 130,
    "mutate_every": 5, "p": 0.05, "p_milestones": (100,), "p_decay": 0.5, "importance_lambda": 0.01,
}  # fmt: skip
TABLE_G1 = {
    "vgg19": CIFAR | {"weight_decay": 5e-4, "warmup_epochs": 5, "model": "vgg19_bn"},
    "resnet32": CIFAR | {"weight_decay": 1e-4, "warmup_epochs": 0, "model": "resnet32", "width": 2.0},
    "imagenet": {
        "epochs": 150, "batch": 2048, "schedule": "cosine", "lr": 2.048, "end_lr": 0.0, "momentum": 0.875,
        "weight_decay": 3.05e-5, "warmup_epochs": 8, "mutate_until": 120, "mutate_every": 2, "p": 0.05,
        "p_milestones": (90,), "p_decay": 0.5, "importance_lambda": 0.001, "data": "imagenet",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "column", "data"),
    [
        *((f"{net}-{data}{de}", net, data) for net in ("vgg19", "resnet32") for data in ("cifar10", "cifar100")
          for de in ("", "-de")),
        ("resnet50-imagenet", "imagenet", "imagenet"),
        ("resnet34-imagenet", "imagenet", "imagenet"),
    ],
)  # fmt: skip
def test_the_papers_recipes_are_those_of_its_table(name, column, data):
    recipe = load_recipe(name).as_mapping()
    expected = {key: list(value) if isinstance(value, tuple) else value for key, value in TABLE_G1[column].items()}
    assert {key: recipe[key] for key in expected} == expected
    assert (recipe["data"], recipe["method"], recipe["label_smoothing"]) == (data, "em&s", 0.0)
    if name.endswith("-imagenet"):
        assert recipe["model"] == name.removesuffix("-imagenet")


@pytest.mark.parametrize("name", [name for name in available_recipes() if name.endswith("-de")])
def test_data_efficient_recipes_add_data_efficiency_alone(name):
    recipe, base = load_recipe(name), load_recipe(name.removesuffix("-de"))
    assert dataclasses.replace(recipe, de_epoch=None, de_threshold=None) == base
    assert recipe.de_threshold == 0
    assert recipe.de_epoch == round(70 / 160 * recipe.epochs)


def test_recipes_say_what_they_are():
    assert list(described_recipes()) == available_recipes()
    assert all(len(line) > 20 for line in described_recipes().values())
    assert described_recipes()["mnist-em"].endswith("MEST+EM.")


def test_its_text_is_the_whole_recipe():
    recipe = load_recipe("resnet32-cifar10-de")
    content = yaml.safe_load(recipe.text())
    assert list(content) == [field.name for field in dataclasses.fields(Recipe)]
    assert Recipe.from_mapping(content, "text") == recipe


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
        (MINIMAL + "sparsity: 0.9\nmasks: m.npz\n", "names a scheme and its sparsity together"),
        (MINIMAL + "weights: w.pt\nscheme: block\n", "names a scheme and its sparsity together"),
        (MINIMAL + "scheme: block\nsparsity: 1\n", "sparsity of a recipe is at least 0 and below 1, not 1.0"),
        (MINIMAL + "profile: p.yaml\nscheme: block\nsparsity: 0.9\n", "not both"),
        (MINIMAL + "noise: -1\n", "noise of a recipe is at least 0, not -1.0"),
        (MINIMAL + "size: 0\n", "size of a recipe is at least 1, not 0"),
        (MINIMAL + "examples: 0\n", "examples of a recipe is at least 1, not 0"),
        (MINIMAL + "label_smoothing: 1\n", "label_smoothing of a recipe is at least 0 and below 1"),
        (MINIMAL + "method: me\n", "no method 'me': choose static, vanilla, em, em&s, set"),
        (MINIMAL + "method: em\n", "'em' of a recipe needs mutate_until"),
        (MINIMAL + "method: em\nmutate_until: 2\n", "'em' of a recipe needs a scheme with its sparsity"),
        (MINIMAL + "mutate_until: 3\n", r"mutate_until of a recipe is at least 0 and at most epochs \(2\), not 3"),
        (MINIMAL + "method: em\nmutation: em\n", "unknown key 'mutation'"),
        (
            MINIMAL + "method: set\nscheme: block\nsparsity: 0.5\np: 0.1\n",
            "p of a recipe is no setting of method 'set'",
        ),
        (MINIMAL + "settings: {zeta: 0.1}\n", "has 'zeta', which is none of optimiser 'sgd', loss 'cross_entropy' or"),
        (MINIMAL + "settings: zeta\n", "settings of a recipe is settings by name, not 'zeta'"),
        (MINIMAL + "p: 0\n", "p of a mutation is above 0 and below 1"),
        (MINIMAL + "p_milestones: [1.5]\n", "p_milestones of a recipe is a list of whole numbers"),
        (MINIMAL + "de_epoch: 2\nde_threshold: 0\n", r"de_epoch of a recipe is at least 1 and below epochs \(2\)"),
        (MINIMAL + "de_epoch: 1\n", "de_epoch with de_threshold or with de_remove, one of the two"),
        (MINIMAL + "de_epoch: 1\nde_threshold: 0\nde_remove: 1\n", "one of the two"),
        (MINIMAL + "de_epoch: 1\nde_remove: 0\n", "de_remove of a recipe is at least 1"),
        (MINIMAL + "x: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    ],
)
def test_wrong_recipes_are_refused(tmp_path, text, sentence):
    with pytest.raises(MestError, match=sentence):
        Recipe.load(write(tmp_path, text))


def test_recipes_of_earlier_versions_are_read(tmp_path):
    """They say mutation where it is method now, and settings that their optimiser does not have."""
    text = MINIMAL + "scheme: block\nsparsity: 0.5\nmutate_until: 2\nmutate_every: 1\n"
    recipe = Recipe.load(write(tmp_path, text + "mutation: em\nbetas: [0.9, 0.999]\neps: 1e-8\n"))
    assert recipe == Recipe.load(write(tmp_path, text + "method: em\n"))
    assert (recipe.method, recipe.betas, recipe.momentum, recipe.p) == ("em", None, 0.9, 0.05)
    theirs = {"mutation" if key == "method" else key: value for key, value in recipe.as_mapping().items()}
    theirs |= {"betas": [0.9, 0.999], "eps": 1e-8}
    del theirs["settings"]
    assert check_recipe(theirs, recipe, 1, "there") is recipe
    with pytest.raises(CheckpointError, match="made with method 'em' and the recipe now says 'vanilla'"):
        check_recipe(theirs, dataclasses.replace(recipe, method="vanilla"), 1, "there")


def test_missing_recipes_are_named(tmp_path):
    with pytest.raises(MestError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.yaml"))
    with pytest.raises(MestError, match=r"unknown recipe 'dmo' \(did you mean 'demo'\?\): choose one of demo, "):
        load_recipe("dmo")
