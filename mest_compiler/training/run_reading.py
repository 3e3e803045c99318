"""Runs as others read them, finished or not: recipe and log for the pictures, checkpoint and data for what comes out.

Nothing here changes a run's folder, and a run that goes on at the same time may be read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mest_compiler.errors import CheckpointError, DataError
from mest_compiler.runtime import checkpoint
from mest_compiler.training.data import load_recipe_data
from mest_compiler.training.data_files import DataFiles
from mest_compiler.training.examples import Examples
from mest_compiler.training.going_on import changed_data
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.records import EpochRecord
from mest_compiler.training.run_folder import CHECKPOINT, LOG, RECIPE


@dataclass(frozen=True)
class RunLog:
    """A run's recipe, and the records of its finished epochs in their order; at least one."""

    path: Path
    recipe: Recipe
    records: tuple[EpochRecord, ...]

    @property
    def finished(self) -> bool:
        """Whether all epochs of the recipe are done."""
        return len(self.records) >= self.recipe.epochs

    @property
    def metric(self) -> str:
        """What its scores are called."""
        return self.records[-1].metric

    @property
    def mutations(self) -> tuple[int, ...]:
        """The epochs after which weights were removed or grown."""
        return tuple(record.epoch for record in self.records if record.removed or record.grown)


def described(recipe: Recipe) -> str:
    """Model, data, scheme, sparsity, mutation and data efficiency in a line."""
    model = recipe.model
    if ":" in model:  # a file of one's own: without its folder
        path, _, attribute = model.rpartition(":")
        model = f"{Path(path).name}:{attribute}"
    words = [f"{model}{'' if recipe.width == 1 else f' ({recipe.width:g}x wide)'}", recipe.data]
    if recipe.profile is not None:
        words.append(f"profile {Path(recipe.profile).name}")
    elif recipe.scheme is not None:
        words.append(f"{recipe.scheme} {'as masks say' if recipe.sparsity is None else f'{recipe.sparsity:.4g}'}")
    elif not recipe.mutates:
        words.append("dense")
    if recipe.mutates:
        words.append(recipe.updater.described())
    elif recipe.scheme is not None or recipe.profile is not None:
        words.append("static masks")
    if recipe.de_epoch is not None:
        words.append(f"data efficiency after {recipe.de_epoch}")
    return ", ".join(words)


def read_recipe(run_dir: Path) -> Recipe:
    """The recipe in a run's folder; CheckpointError where there is no run, MestError where it is damaged."""
    if not (run_dir / RECIPE).is_file():
        raise CheckpointError(f"{run_dir} holds no run: name the folder that mest train wrote (its --run-dir)")
    return Recipe.load(run_dir / RECIPE)


def read_log(run_dir: Path) -> RunLog:
    """Recipe and log of a run.

    A last line without its end is one that is just being written, or was when the run was killed: it is left out.

    Raises:
        CheckpointError: no run, a log that is not one of this version, or no epoch finished yet. MestError: its recipe.
    """
    recipe, log = read_recipe(run_dir), run_dir / LOG
    try:
        text = log.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{log} cannot be read ({error}): name the folder of a run") from None
    records = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        source = f"{log}, line {number},"
        try:
            content = json.loads(line)
        except ValueError as error:
            raise CheckpointError(f"{source} is no JSON ({error}): resume the run, which writes its log anew") from None
        record = EpochRecord.from_mapping(content, source)
        if record.epoch != number:
            raise CheckpointError(
                f"{source} is of epoch {record.epoch}: resume the run, which writes its log anew from the checkpoint"
            )
        records.append(record)
    if not records:
        raise CheckpointError(f"{run_dir} has not finished its first epoch: come back when it has")
    return RunLog(run_dir, recipe, tuple(records))


def read_checkpoint(run_dir: Path) -> tuple[Recipe, checkpoint.Content]:
    """Recipe and verified checkpoint of a run.

    Raises:
        CheckpointError: no run, or its checkpoint is missing, damaged or not one of the training loop. MestError: its
            recipe.
    """
    recipe = read_recipe(run_dir)
    content = checkpoint.read(run_dir / CHECKPOINT, None)
    if not {"position", "data", "network"} <= content.extra.keys():
        raise CheckpointError(f"{run_dir / CHECKPOINT} was not written by a training run: use another one")
    return recipe, content


def data_of(run_dir: Path, recipe: Recipe, content: checkpoint.Content, data_root: Path | None = None) -> Examples:
    """The data set that a run was trained on; data_root: where it lies now, None: where the recipe says.

    Raises:
        DataError: it is not there whole, or its examples are not those of the run.
    """
    data, source = load_recipe_data(recipe, data_root), str(run_dir / CHECKPOINT)
    files = DataFiles.of(data.files(), DataFiles.from_arrays(content.arrays, source))
    if what := changed_data(data, files, content.extra, content.arrays, source):
        raise DataError(
            f"{run_dir} was trained on other data than data set {data.name} has here ({what}): name their folder "
            "or file with --data-root"
        )
    return data
