"""The options of `mest train`: one for each field of a recipe, in panels that follow the parts of a run, and which
recipe they and its name make together."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from mest_compiler.cli import optimizer_options, options, sparse_request
from mest_compiler.errors import MestError
from mest_compiler.sparsity.methods import METHODS

if TYPE_CHECKING:
    from mest_compiler.training.recipe import Recipe

RECIPE_FILE = "recipe.yaml"
"""Name of the recipe in a run's folder."""

DATA, NETWORK, OPTIMISER, SPARSITY, METHOD, EFFICIENCY, RUN = (
    "Data",
    "Network",
    optimizer_options.PANEL,
    "Sparsity: which weights there are at the start",
    "Method: how masks change during training",
    "Data efficiency: leaving out images that are not forgotten",
    "Run",
)
"""Panels of the help."""


def _epochs(text: str | None) -> str | None:
    if text is not None and not all(part.strip().isdigit() for part in text.split(",")):
        raise typer.BadParameter(f"{text!r} is no list of epochs: write whole numbers with commas, such as 80,120")
    return text


def _settings(text: str | None) -> str | None:
    if text is not None and not all(name and value for name, _, value in _pairs(text)):
        raise typer.BadParameter(f"{text!r} is no list of settings: write, for example, zeta=0.2")
    return text


def _pairs(text: str) -> list[tuple[str, str, str]]:
    return [part.strip().partition("=") for part in text.split(",")]


def _option(panel: str, help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, rich_help_panel=panel, **more)


def in_panel(panel: str, shared: Any) -> Any:
    """An option that several commands share, in a panel of this one's help."""
    kind, option = get_args(shared)
    option = copy.copy(option)
    option.rich_help_panel = panel
    return Annotated[kind, option]


Data = Annotated[
    str | None,
    _option(
        DATA,
        "mnist (5,000 images that need no download), cifar10, cifar100, imagenet (any folder of images), or arrays (a "
        "file of your own numbers).",
    ),
]
DataRoot = Annotated[
    Path | None,
    _option(
        DATA,
        "Folder of the data: CIFAR's unpacked archive, or train/ and val/ with a folder of images a class; of arrays "
        "the .npz or .safetensors file, with train/NAME and test/NAME for each input and for the target, y.",
        exists=True,
    ),
]
Size = Annotated[int | None, _option(DATA, "Height and width of the images, where not the usual ones.")]
Examples = Annotated[int | None, _option(DATA, "Only so many training examples, equally many of each class.")]
Noise = Annotated[
    float | None, _option(DATA, "Deviation of noise added to all images, in normalised units: makes easy data harder.")
]
Augment = Annotated[bool | None, _option(DATA, "Whether training images are moved as their data set says.")]

ModelName = Annotated[
    str | None, _option(NETWORK, "A model's name, or FILE.py:CALLABLE for one of your own.", "--model")
]
WidthFactor = Annotated[float | None, _option(NETWORK, "Factor on the channels of every layer.", "--width")]

Epochs = Annotated[int | None, _option(OPTIMISER, "Passes over the training set.")]
BatchSize = Annotated[int | None, _option(OPTIMISER, "Examples in a step, of all processes together.", "--batch")]
Lr = Annotated[float | None, _option(OPTIMISER, "Largest learning rate: 0.1 with sgd, 0.001 with adam and adamw.")]
EndLr = Annotated[float | None, _option(OPTIMISER, "Learning rate of the last step, for the cosine schedule.")]
WarmupEpochs = Annotated[int | None, _option(OPTIMISER, "Epochs in which the rate grows linearly to --lr.")]
Schedule = Annotated[str | None, _option(OPTIMISER, "cosine, or step: --decay times the rate at each of --milestones.")]
Milestones = Annotated[
    str | None, _option(OPTIMISER, "Epochs at which the step schedule lowers the rate: 80,120.", callback=_epochs)
]
Decay = Annotated[float | None, _option(OPTIMISER, "Factor of the step schedule at each milestone.")]
Loss = in_panel(OPTIMISER, options.Loss)
LabelSmoothing = Annotated[
    float | None, _option(OPTIMISER, "Share of a label that is spread over all classes, such as 0.1.")
]

Scheme = in_panel(SPARSITY, options.Scheme)
Sparsity = in_panel(SPARSITY, options.Sparsity)
Profile = in_panel(SPARSITY, options.Profile)
ProfileRatios = in_panel(SPARSITY, options.ProfileRatios)
Weights = in_panel(SPARSITY, sparse_request.Weights)
WeightsKey = in_panel(SPARSITY, sparse_request.WeightsKey)
Masks = in_panel(SPARSITY, sparse_request.Masks)
MasksFrom = in_panel(SPARSITY, sparse_request.MasksFrom)

Method = Annotated[
    str | None,
    _option(
        METHOD,
        f"{'; '.join(f'{name}: {kind.what}' for name, kind in METHODS.items())}.",
        "--method",
        metavar="NAME",
    ),
]
P = Annotated[
    float | None,
    _option(METHOD, "Fraction of a layer's weights that MEST's mutation changes; with em, below 1 - sparsity.", "--p"),
]
MutateEvery = Annotated[int | None, _option(METHOD, "Epochs from one mutation to the next (delta tau).")]
MutateUntil = Annotated[int | None, _option(METHOD, "Epoch from which on masks stay (tau stop).")]
PMilestones = Annotated[
    str | None, _option(METHOD, "Epochs at which p shrinks, such as 100.", "--p-milestones", callback=_epochs)
]
PDecay = Annotated[float | None, _option(METHOD, "Factor of p at each of --p-milestones.", "--p-decay")]
ImportanceLambda = Annotated[
    float | None,
    _option(METHOD, "Lambda in a weight's importance |w| + |lambda * gradient|; the least important go."),
]

Settings = Annotated[
    str | None,
    _option(
        METHOD,
        "Settings of the method, the optimiser or the loss that have no option: zeta=0.2 (set).",
        metavar="NAME=VALUE,...",
        callback=_settings,
    ),
]

DeEpoch = Annotated[
    int | None, _option(EFFICIENCY, "Epochs of phase 1, in which forgetting is counted; then images are left out.")
]
DeThreshold = Annotated[
    int | None,
    _option(EFFICIENCY, "Leave out the learned images that were forgotten at most so often; 0: never forgotten."),
]
DeRemove = Annotated[
    int | None, _option(EFFICIENCY, "Leave out so many images instead, those that were forgotten least.")
]

RecipeSeed = Annotated[
    int | None, _option(RUN, "Where all random numbers start: weights, masks, order, mutation.", "--seed", min=0)
]

LISTS = {"milestones": int, "p_milestones": int, "betas": float}
INSTEAD = {
    "profile": ("scheme", "sparsity"),
    "scheme": ("profile_ratios",),
    "sparsity": ("profile_ratios",),
    "de_threshold": ("de_remove",),
    "masks": ("masks_from", "sparsity"),
    "masks_from": ("masks", "weights", "weights_key", "sparsity"),
    "weights": ("masks_from", "weights_key"),
}
"""Fields of a recipe that an option takes the place of, unless they are given too."""
EITHER = ("profile", "de_threshold")
"""Options that in turn give way to the fields they stand for."""
OF_START = ("weights", "weights_key", "masks", "masks_from", "profile_ratios")
"""Fields that only the first epoch of a run starts from."""


def chosen_recipe(name: str | None, run_dir: Path, resume: bool, given: Mapping[str, Any]) -> Recipe:
    """The recipe of this name or file, or that of the run to resume, with the fields that options gave.

    Paths that options name are made absolute, since the recipe is kept in the run's folder.

    Raises:
        MestError: no such recipe, or one without a model, a data set or a number of epochs.
    """
    import yaml

    from mest_compiler.training.recipe import FILES, Recipe, load_recipe
    from mest_compiler.training.recipe_settings import OF_METHOD, OF_OPTIMIZER

    fields = {key: value for key, value in given.items() if value is not None}
    for key in FILES:
        if key in fields:
            fields[key] = str(Path(fields[key]).resolve())
    if ":" in fields.get("model", ""):
        path, _, attribute = fields["model"].rpartition(":")
        fields["model"] = f"{Path(path).resolve()}:{attribute}"
    for key, kind in LISTS.items():
        if key in fields:
            fields[key] = [kind(part) for part in fields[key].split(",")]
    if "settings" in fields:
        fields["settings"] = {name: yaml.safe_load(value) for name, _, value in _pairs(fields["settings"])}
    # one way of saying something takes the place of the other
    said = set(fields)
    for one, others in INSTEAD.items():
        if one in said:
            fields = {**dict.fromkeys(others), **fields}
        elif one in EITHER and said & set(others):
            fields = {one: None, **fields}
    if name is None and not resume:
        recipe = Recipe.from_mapping(fields, "the recipe that the options make")
        _refuse_idle(recipe, fields)
        return recipe
    if name is None and not (run_dir / RECIPE_FILE).is_file():
        raise MestError(f"{run_dir} holds no run to resume: start one without --resume, or name its folder.")
    recipe = load_recipe(str(run_dir / RECIPE_FILE) if name is None else name)
    if fields.get("schedule", recipe.schedule) != recipe.schedule:
        fields = {"milestones": (), **fields}  # not those of another schedule
    if fields.get("optimizer", recipe.optimizer) != recipe.optimizer:
        fields = {"lr": None, "end_lr": 0.0, **dict.fromkeys(OF_OPTIMIZER), **fields}  # nor those of another optimiser
    if fields.get("loss", recipe.loss) != recipe.loss:
        fields = {"label_smoothing": 0.0, **fields}  # nor those of another loss
    method = METHODS.get(fields.get("method", recipe.method))
    if method is not None and method.setting_names() != recipe.updater.setting_names():
        fields = {**dict.fromkeys(OF_METHOD), **fields}  # nor those of another method
    fields["settings"] = _kept_settings(recipe, fields) | fields.get("settings", {})
    recipe = dataclasses.replace(recipe, **fields)
    _refuse_idle(recipe, given)
    return recipe


def _kept_settings(recipe: Recipe, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe, but for those of what the options choose anew."""
    chosen = {"method": recipe.updater, "optimizer": recipe.rule, "loss": recipe.rule_of_loss}
    gone = {
        field.name
        for key, one in chosen.items()
        if fields.get(key, getattr(recipe, key)) != getattr(recipe, key)
        for field in dataclasses.fields(one)
    }
    return {name: value for name, value in recipe.settings.items() if name not in gone}


def _refuse_idle(recipe: Recipe, given: Mapping[str, Any]) -> None:
    """Raise MestError for the first option that was given and changes nothing of a run with this recipe."""
    for key, value in given.items():
        needs = None if value is None else recipe.needed_by(key)
        if needs is not None:
            raise MestError(f"--{key.replace('_', '-')} changes nothing here, since it needs {needs}: leave it out.")


def show_recipes(wanted: bool) -> None:
    """Print the package's recipes, a line each, and end the command: the callback of --list."""
    if not wanted:
        return
    from mest_compiler.training.recipe import described_recipes

    recipes = described_recipes()
    width = max(map(len, recipes))
    for name, what in recipes.items():
        typer.echo(f"{name:<{width}}  {what}")
    raise typer.Exit
