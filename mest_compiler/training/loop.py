"""The epoch loop: the same one for the PyTorch engine and the compiled one, for one process and for several."""

import math
import time
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np

from mest_compiler.errors import MestError
from mest_compiler.losses import LOSSES, Loss
from mest_compiler.losses.base import OUTPUT, named
from mest_compiler.sparsity.methods import Clock
from mest_compiler.training.data_efficiency import DataEfficiency
from mest_compiler.training.engine import TrainingEngine
from mest_compiler.training.examples import Examples
from mest_compiler.training.feed import epoch_batches, made_ahead, steps_per_epoch
from mest_compiler.training.memory import peak_rss_mb
from mest_compiler.training.mutator import Mutated, Mutator
from mest_compiler.training.progress import Reporter
from mest_compiler.training.ranks import Ranks, SingleProcess
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.records import EpochRecord, Position, Summary
from mest_compiler.training.run_folder import RunFolder

EVALUATED_AT_ONCE = 1000  # examples at most
EVALUATED_BYTES = 2**26  # of inputs at once; a few times as many are being loaded meanwhile


def train(
    engine: TrainingEngine,
    data: Examples,
    recipe: Recipe,
    run_dir: Path,
    *,
    resume: bool,
    reporter: Reporter,
    checkpoint_steps: int | None = None,
    ranks: Ranks | None = None,
    accepts_data: bool = False,
) -> Summary:
    """Train `engine` on `data` as `recipe` says, with everything the run leaves behind in `run_dir`.

    The folder gets recipe.yaml, log.jsonl (a line an epoch, see EpochRecord) and checkpoint.safetensors,
    which is replaced whole after every epoch and, with `checkpoint_steps`, after every so many steps of an
    epoch. resume: go on from that checkpoint, whichever engine wrote it; with the same one the run then ends bit by
    bit as the uninterrupted one would have. The recipe may have more epochs then, over which a cosine is stretched, and
    with `accepts_data` other examples in place of its own, as many. A run that was finished returns at once. ranks: the
    processes that train together; the first writes the folder.

    Errors: CheckpointError when there is nothing to resume, or something in the way when not resuming;
    ProfileError when a layer cannot mutate as the recipe says; MestError when the loss or its score is no finite
    number, or the engine has another loss than the recipe.
    KeyboardInterrupt goes on to the caller, with a sentence that says how far the checkpoint is.
    """
    run = _Run(engine, data, recipe, run_dir, reporter, checkpoint_steps, ranks or SingleProcess())
    try:
        run.start(resume, accepts_data)
        while run.position.epoch < recipe.epochs:
            run.epoch()
    except KeyboardInterrupt:
        sentence = run.interrupted()
        reporter.note(sentence)
        raise KeyboardInterrupt(sentence) from None
    finally:
        reporter.close()
    return Summary(tuple(run.position.records))


class _Run:
    """What one call of `train` works on."""

    def __init__(
        self, engine: TrainingEngine, data: Examples, recipe: Recipe, run_dir: Path, reporter: Reporter,
        checkpoint_steps: int | None, ranks: Ranks,
    ) -> None:  # fmt: skip
        self.engine, self.data, self.recipe, self.reporter, self.ranks = engine, data, recipe, reporter, ranks
        self.checkpoint_steps = checkpoint_steps
        self.share = ranks.share(recipe.batch)
        self.loss = _loss_of(engine, recipe)
        steps_per_epoch(data.train_count, recipe.batch)  # raises where the batch is too large
        self.folder = RunFolder(run_dir, recipe, data)
        self.mutator = Mutator(recipe.updater, engine, recipe.seed)
        self.efficiency = DataEfficiency(recipe, data.train_count)
        self.position, self.saved, self.digest = Position(), (0, 0), 0

    def start(self, resume: bool, accepts_data: bool) -> None:
        """Take up the run where its checkpoint is, or begin it."""
        if resume:
            self.position = self.folder.resume(
                self.engine, self.mutator, self.efficiency,
                writes=self.ranks.rank == 0, accepts_data=accepts_data, note=self.reporter.note,
            )  # fmt: skip
            self.saved = (self.position.epoch, self.position.step)
            if accepts_data:
                self.save()  # so that they are this run's data from now on
        else:
            self.mutator.after(Clock(0, self.recipe.epochs))
            if self.ranks.rank == 0:
                self.folder.begin()
            self.save()
        self.digest = self._digest()

    def save(self) -> None:
        """Replace the checkpoint."""
        if self.ranks.rank == 0:
            self.folder.save(self.engine, self.position, self.mutator, self.efficiency)
        self.ranks.barrier()
        self.saved = (self.position.epoch, self.position.step)

    def epoch(self) -> None:
        """Train from `position` to the end of its epoch, mutate, evaluate, save."""
        recipe, position = self.recipe, self.position
        active = self.efficiency.active
        steps = steps_per_epoch(len(active), recipe.batch)
        self.reporter.epoch_started(position.epoch + 1, recipe.epochs, steps, position.step)
        lr = self._steps(active, steps)
        started = time.perf_counter()
        mutated = self.mutator.after(Clock(position.epoch + 1, recipe.epochs))
        mutation_seconds = time.perf_counter() - started
        self.digest = self._digest()
        score = evaluate(self.engine, self.data, self.ranks)
        if not math.isfinite(score):
            raise MestError(
                f"the test {self.loss.metric_name} became {score} after epoch {position.epoch + 1}, at learning rate "
                f"{lr:g}: lower lr or add warmup_epochs and start again, and give a loss of your own its `error`"
            )
        unforgettable = int(np.count_nonzero(self.efficiency.forgetting.unforgettable))
        self.efficiency.after(position.epoch + 1)
        seconds = time.perf_counter() - started
        record = self._finished(mutated, 1000 * mutation_seconds, seconds, lr, score, len(active), unforgettable)
        self.save()
        if self.ranks.rank == 0:
            self.folder.append_log(position)
        self.reporter.epoch_finished(record, recipe.epochs)

    def _finished(
        self, mutated: Mutated, mutation_ms: float, seconds: float, lr: float, score: float, examples: int,
        unforgettable: int,
    ) -> EpochRecord:  # fmt: skip
        kept, whole = self.mutator.kept()
        return self.position.finish_epoch(
            batch=self.recipe.batch,
            beside_seconds=seconds,
            metric=self.loss.metric_name,
            test_score=score,
            lr=lr,
            sparsity=1 - kept / whole if whole else 0.0,
            kept=kept,
            removed=mutated.removed,
            grown=mutated.grown,
            mutation_ms=mutation_ms,
            examples=examples,
            unforgettable=unforgettable,
            memory_mb=peak_rss_mb(),
            state_mb=sum(self.engine.state_bytes().values()) / 2**20,
        )

    def _steps(self, active: np.ndarray, steps: int) -> float:
        """The steps of an epoch that are left; returns the last one's rate."""
        recipe, position = self.recipe, self.position
        feed = epoch_batches(
            self.data,
            recipe.batch,
            active=active,
            share=self.share,
            seed=recipe.seed,
            epoch=position.epoch,
            first_step=position.step,
            augmented=recipe.augment,
        )
        lr = 0.0
        # Closed, so that the thread behind it ends even when a step raises.
        with closing(feed):
            started = time.perf_counter()
            for batch in feed:
                lr = recipe.learning_rate(position.epoch * steps + position.step, steps)
                loss, outputs = self.engine.step(batch.inputs, batch.targets, lr)
                scores = self.loss.scores(named(outputs, OUTPUT), batch.targets)
                loss, scores = self.ranks.gathered(loss, scores, self.digest)
                if not math.isfinite(loss):
                    raise MestError(
                        f"the loss became {loss} in epoch {position.epoch + 1}, step {position.step + 1} "
                        f"of {steps}, at learning rate {lr:g}: lower lr or add warmup_epochs and start again"
                    )
                if self.loss.labelled:
                    self.efficiency.saw(batch.ids, scores)
                position.add_step(loss, float(scores.sum()), time.perf_counter() - started)
                self.reporter.step_finished(position.step, position.loss_sum / position.step)
                # The last step needs none: the epoch's own checkpoint follows.
                if self.checkpoint_steps and position.step % self.checkpoint_steps == 0 and position.step < steps:
                    self.save()
                # Here and not before: writing a checkpoint is no part of an iteration.
                started = time.perf_counter()
        return lr

    def _digest(self) -> int:
        """A number that differs where masks differ."""
        digest = 0
        for units in self.engine.kept_units().values():
            digest = zlib.crc32(units.tobytes(), digest)
        return digest

    def interrupted(self) -> str:
        """What is left after Ctrl-C."""
        epochs, steps = self.saved
        return (
            f"interrupted: {self.folder.checkpoint} is whole and holds {epochs} of {self.recipe.epochs} epochs"
            f"{f' and {steps} steps' if steps else ''}; resume the run to go on from there"
        )


def _loss_of(engine: TrainingEngine, recipe: Recipe) -> Loss:
    """The engine's loss; MestError where it has none to hand, or the recipe names another one."""
    loss = engine.loss
    if loss is None:
        raise MestError("the step's loss is a function of one's own, which it does not hold: give it to Trainer")
    # One of one's own has no name that a recipe could hold.
    if loss.name in LOSSES and loss.name != recipe.loss:
        raise MestError(f"the recipe has loss {recipe.loss} and the network is trained with {loss.name}: make them one")
    return loss


def evaluate(engine: TrainingEngine, data: Examples, ranks: Ranks | None = None) -> float:
    """Mean score of the test examples, see `Loss.scores`; processes share them out."""
    ranks = ranks or SingleProcess()
    mine = np.arange(data.test_count)[ranks.rank :: ranks.size]
    size = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in data.inputs.values())
    at_once = max(1, min(EVALUATED_AT_ONCE, EVALUATED_BYTES // max(size, 1)))
    parts = [mine[start : start + at_once] for start in range(0, len(mine), at_once)]
    total = 0.0
    with closing(made_ahead(lambda i: data.test_inputs(parts[i]), range(len(parts)))) as inputs:
        for ids, x in zip(parts, inputs, strict=True):
            scores = engine.loss.scores(named(engine.predict(x), OUTPUT), data.test_targets(ids))
            total += float(scores.sum())
    return ranks.total(total) / data.test_count
