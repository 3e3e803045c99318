"""The epoch loop: the same one for the PyTorch backend and the compiled one."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from mest_compiler.errors import MestError
from mest_compiler.training.backend import Backend
from mest_compiler.training.data import DataSet
from mest_compiler.training.feed import epoch_batches, steps_per_epoch
from mest_compiler.training.progress import Reporter
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.records import Position, Summary
from mest_compiler.training.run_folder import RunFolder


def train(
    backend: Backend,
    data: DataSet,
    recipe: Recipe,
    run_dir: Path,
    *,
    resume: bool,
    reporter: Reporter,
    checkpoint_steps: int | None = None,
) -> Summary:
    """Train `backend` on `data` as `recipe` says, with everything the run leaves behind in `run_dir`.

    The folder gets recipe.yaml, log.jsonl (a line an epoch, see EpochRecord) and checkpoint.safetensors,
    which is replaced whole after every epoch and, with `checkpoint_steps`, after every so many steps of an
    epoch. resume: go on from that checkpoint; the run then ends bit by bit as the uninterrupted one would
    have, and a run that was finished returns at once.

    Errors: CheckpointError when there is nothing to resume, or something in the way when not resuming;
    MestError when the loss is no finite number. KeyboardInterrupt goes on to the caller, with a sentence that
    says how far the checkpoint is.
    """
    steps = steps_per_epoch(len(data.train_y), recipe.batch)
    folder = RunFolder(run_dir, recipe, data)
    position = folder.resume(backend) if resume else folder.begin(backend)
    saved = (position.epoch, position.step)

    def save() -> None:
        nonlocal saved
        folder.save(backend, position)
        saved = (position.epoch, position.step)

    def save_when_due() -> None:
        # The last step needs none: the epoch's own checkpoint follows.
        if checkpoint_steps and position.step % checkpoint_steps == 0 and position.step < steps:
            save()

    try:
        while position.epoch < recipe.epochs:
            reporter.epoch_started(position.epoch + 1, recipe.epochs, steps, position.step)
            lr = _train_epoch(backend, data, recipe, position, reporter, save_when_due)
            started = time.perf_counter()
            accuracy = evaluate(backend, data.test_x, data.test_y)
            record = position.finish_epoch(
                batch=recipe.batch,
                test_accuracy=accuracy,
                lr=lr,
                evaluation_seconds=time.perf_counter() - started,
            )
            save()
            folder.append_log(position)
            reporter.epoch_finished(record, recipe.epochs)
    except KeyboardInterrupt:
        sentence = (
            f"interrupted: {folder.checkpoint} is whole and holds {saved[0]} of {recipe.epochs} epochs"
            f"{f' and {saved[1]} steps' if saved[1] else ''}; resume the run to go on from there"
        )
        reporter.note(sentence)
        raise KeyboardInterrupt(sentence) from None
    finally:
        reporter.close()
    return Summary(tuple(position.records))


def _train_epoch(
    backend: Backend,
    data: DataSet,
    recipe: Recipe,
    position: Position,
    reporter: Reporter,
    after_step: Callable[[], None],
) -> float:
    """Train from `position` to the end of its epoch, moving it along; returns the last step's rate."""
    steps = steps_per_epoch(len(data.train_y), recipe.batch)
    feed = epoch_batches(
        data,
        recipe.batch,
        seed=recipe.seed,
        epoch=position.epoch,
        first_step=position.step,
        augmented=recipe.augment,
    )
    lr = 0.0
    # Closed, so that the thread behind it ends even when a step raises.
    with closing(feed):
        started = time.perf_counter()
        for x, y in feed:
            lr = recipe.learning_rate(position.epoch * steps + position.step, steps)
            loss, logits = backend.step(x, y, lr)
            if not math.isfinite(loss):
                raise MestError(
                    f"the loss became {loss} in epoch {position.epoch + 1}, step {position.step + 1} "
                    f"of {steps}, at learning rate {lr:g}: lower lr or add warmup_epochs and start again"
                )
            position.add_step(loss, _correct(logits, y), time.perf_counter() - started)
            reporter.step_finished(position.step, position.loss_sum / position.step)
            after_step()
            # Here and not before: writing a checkpoint is no part of an iteration.
            started = time.perf_counter()
    return lr


def evaluate(backend: Backend, x: np.ndarray, y: np.ndarray) -> float:
    """Share of the examples x float32 [N, C, H, W] whose largest logit is that of their label y int64 [N]."""
    return _correct(backend.predict(x), y) / len(y)


def _correct(logits: np.ndarray, y: np.ndarray) -> int:
    return int(np.count_nonzero(logits.argmax(axis=1) == y))
