"""The options of `mest train`: one for each field of a recipe, and which recipe they and its name make together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mest_compiler.errors import MestError

if TYPE_CHECKING:
    from mest_compiler.training.recipe import Recipe

RECIPE_FILE = "recipe.yaml"
"""Name of the recipe in a run's folder."""


def _milestones(text: str | None) -> str | None:
    if text is not None and not all(part.strip().isdigit() for part in text.split(",")):
        raise typer.BadParameter(f"{text!r} is no list of epochs: write whole numbers with commas, such as 80,120")
    return text


def _option(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, **more)


ModelName = Annotated[str | None, _option("A model's name, or FILE.py:CALLABLE for one of your own.", "--model")]
Data = Annotated[str | None, _option("Data set: mnist (5,000 images that need no download), cifar10 or cifar100.")]
DataRoot = Annotated[Path | None, _option("Folder that holds CIFAR's unpacked archive.", exists=True, file_okay=False)]
Epochs = Annotated[int | None, _option("Passes over the training set.")]
BatchSize = Annotated[int | None, _option("Examples in a step.", "--batch")]
Lr = Annotated[float | None, _option("Largest learning rate.")]
EndLr = Annotated[float | None, _option("Learning rate of the last step, for the cosine schedule.")]
WarmupEpochs = Annotated[int | None, _option("Epochs in which the rate grows linearly to --lr.")]
Schedule = Annotated[str | None, _option("cosine, or step: --decay times the rate at each of --milestones.")]
Milestones = Annotated[
    str | None, _option("Epochs at which the step schedule lowers the rate, such as 80,120.", callback=_milestones)
]
Decay = Annotated[float | None, _option("Factor of the step schedule at each milestone.")]
Momentum = Annotated[float | None, _option("SGD's momentum.")]
Nesterov = Annotated[bool | None, _option("Nesterov's momentum.")]
WeightDecay = Annotated[float | None, _option("SGD's weight decay, on all parameters.")]
WidthFactor = Annotated[float | None, _option("Factor on the channels of every layer.", "--width")]
Augment = Annotated[bool | None, _option("Whether training images are moved as their data set says.")]
RecipeSeed = Annotated[int | None, _option("Where all random numbers start: weights, masks, order.", "--seed", min=0)]


def chosen_recipe(name: str | None, run_dir: Path, resume: bool, given: Mapping[str, Any]) -> Recipe:
    """The recipe of this name or file, or that of the run to resume, with the fields that options gave.

    Paths that options name are made absolute, since the recipe is kept in the run's folder.

    Raises:
        MestError: no such recipe, or one without a model, a data set or a number of epochs.
    """
    import dataclasses

    from mest_compiler.training.recipe import Recipe, load_recipe

    fields = {key: value for key, value in given.items() if value is not None}
    for key in ("profile", "data_root"):
        if key in fields:
            fields[key] = str(Path(fields[key]).resolve())
    if ":" in fields.get("model", ""):
        path, _, attribute = fields["model"].rpartition(":")
        fields["model"] = f"{Path(path).resolve()}:{attribute}"
    if "milestones" in fields:
        fields["milestones"] = [int(part) for part in fields["milestones"].split(",")]
    # one way of saying what is sparse takes the place of the other
    if "profile" in fields:
        fields = {"scheme": None, "sparsity": None, **fields}
    elif "scheme" in fields or "sparsity" in fields:
        fields = {"profile": None, **fields}
    if name is None and not resume:
        return Recipe.from_mapping(fields, "the recipe that the options make")
    if name is None and not (run_dir / RECIPE_FILE).is_file():
        raise MestError(f"{run_dir} holds no run to resume: start one without --resume, or name its folder.")
    recipe = load_recipe(str(run_dir / RECIPE_FILE) if name is None else name)
    return dataclasses.replace(recipe, **fields)
