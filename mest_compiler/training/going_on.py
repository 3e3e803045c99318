"""What may differ when a run goes on, and the sentences that say it: more epochs, and data with changed files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from mest_compiler.errors import CheckpointError, MestError
from mest_compiler.training.built_for import BuiltFor
from mest_compiler.training.data_files import DataFiles
from mest_compiler.training.examples import Examples
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.records import Position

ACCEPT = "--accept-changed-data"
"""The option that goes on with other examples."""
# The same data may lie elsewhere on the day a run goes on; its files tell whether they are the same.
# What a run started from is in its checkpoint, which goes on without those files.
MAY_CHANGE = {"data_root", "weights", "weights_key", "masks", "masks_from", "profile_ratios"}
EPOCHS = "epochs"


def check_recipe(theirs: object, ours: Recipe, done: int, source: str) -> Recipe:
    """The recipe of a checkpoint, of which `ours` is the same or one with more epochs.

    Args:
        theirs: as the checkpoint has it; done: finished epochs; source: named in errors.

    Raises:
        CheckpointError: another recipe, or fewer epochs.
    """
    try:
        theirs, now = Recipe.from_mapping(theirs, source).as_mapping(), ours.as_mapping()
    except MestError:
        raise CheckpointError(f"{source} was not written by this training loop: use another one") from None
    different = [k for k in now if k not in MAY_CHANGE and theirs[k] != now[k]]
    for key in [key for key in different if key != EPOCHS]:
        raise CheckpointError(
            f"{source} was made with {key} {theirs[key]!r} and the recipe now says "
            f"{now[key]!r}: resume with the recipe.yaml beside it or choose another folder"
        )
    if not different:
        return ours
    before = dataclasses.replace(ours, epochs=theirs[EPOCHS])
    if ours.epochs < before.epochs:
        raise CheckpointError(
            f"{source} is of a run of {before.epochs} epochs, of which {done} are done, and its schedules are made for "
            f"them: it can have more epochs and not {ours.epochs}"
        )
    return before


def longer(before: Recipe, now: Recipe, position: Position, steps: int) -> str:
    """How a run goes on that gets more epochs; steps: of an epoch."""
    step = position.epoch * steps + position.step
    last, following = before.learning_rate(max(step - 1, 0), steps), now.learning_rate(step, steps)
    if now.schedule == "cosine":
        how = f"the cosine is stretched over all {now.epochs}, so the learning rate goes from {last:.3g} to"
        how += f" {following:.3g} and ends at {now.end_lr:g}"
    else:
        how = f"the milestones of the learning rate stay, which is {following:.3g} next"
    if now.mutates and now.mutate_until is None:
        how += "; mutation goes on with them"
    elif now.mutates:
        how += f"; mutation stays until epoch {now.mutate_until}"
    return f"{now.epochs} epochs in place of {before.epochs}: {how}"


def changed_data(
    data: Examples, now: DataFiles, extra: Mapping[str, object], arrays: Mapping[str, np.ndarray], source: str
) -> str:
    """What is other data than a run's, in some words, "" for nothing.

    Args:
        now: the data's files; extra, arrays: of the checkpoint, called `source` in errors.

    Raises:
        CheckpointError: it does not say what its data were.
    """
    if not isinstance(extra["data"], str):
        raise CheckpointError(f"{source} was not written by this training loop: use another one")
    before = DataFiles.from_arrays(arrays, source)
    if before is not None:
        changes = now.changes_since(before)
        return f"of {len(now.files)} files {changes}" if changes else ""
    if "digest" in extra:
        return "inputs or targets" if extra["digest"] != data.digest() else ""
    # of a version that knew some of the examples only
    return "inputs or targets" if extra["data"] != data.fingerprint() else ""


def check_data(
    data: Examples,
    now: DataFiles,
    extra: Mapping[str, object],
    arrays: Mapping[str, np.ndarray],
    accepts: bool,
    source: str,
) -> str:
    """What is to be said of the data that a run goes on with, "" for nothing; arguments as of `changed_data`.

    Args:
        accepts: whether there may be other examples.

    Raises:
        CheckpointError: other examples, or another number of them, which not even `accepts` allows.
    """
    what = changed_data(data, now, extra, arrays, source)
    if not what:
        before = DataFiles.from_arrays(arrays, source)
        if before is not None and now.copies_unread(before):
            return (
                f"all {len(now.files)} files of the data have their sizes and other times: taken for a copy, not read"
            )
        return ""
    counted = arrays.get("events")
    if counted is not None and len(counted) != data.train_count:
        raise CheckpointError(
            f"{source} was made with other data ({what}), of {len(counted)} training examples where there are "
            f"{data.train_count} now: put the same ones back, since they can be replaced and not added or removed"
        )
    if not accepts:
        raise CheckpointError(
            f"{source} was made with other data ({what}): resume with the same data set, or go on with the changed one "
            f"by {ACCEPT}"
        )
    return f"going on with changed data ({what})"


def check_network(before: BuiltFor, now: BuiltFor, source: str) -> None:
    """Raise CheckpointError unless a run's data still are what its network is built for."""
    if before != now:
        raise CheckpointError(
            f"{source} is of a network for {before}, and its data are {now} now: put examples of the same form back"
        )
