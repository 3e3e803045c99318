"""A training run through the compiled step, as `mest train` and `mest demo` make it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mest_compiler.cli.output import console
from mest_compiler.cli.places import check_artifact_place, check_writable, no_empty_folders
from mest_compiler.cli.recipe_options import RECIPE_FILE
from mest_compiler.errors import CheckpointError, MaskError

if TYPE_CHECKING:
    from mest_compiler.runtime.artifact import Artifact
    from mest_compiler.runtime.trainer import Trainer
    from mest_compiler.training.data import DataSet
    from mest_compiler.training.recipe import Recipe
    from mest_compiler.training.records import Summary

ARTIFACT, WEIGHTS, MASKS, SUMMARY = "artifact", "weights.safetensors", "masks.safetensors", "summary.json"
"""What a run leaves in its folder besides the loop's own recipe, log and checkpoint: the step as it was compiled, and
in the end the weights by torch's names, the masks and, of the demo, its numbers."""


@dataclass(frozen=True)
class Run:
    """A finished run and what it ran on."""

    recipe: Recipe
    data: DataSet
    artifact: Artifact
    trainer: Trainer
    summary: Summary

    def facts(self) -> dict[str, Any]:
        """JSON values: accuracies, losses by epoch, times, and bytes of the training state."""
        from dataclasses import asdict

        from mest_compiler.bench.machine import describe
        from mest_compiler.training.memory import peak_rss_mb

        summary, details = self.summary, self.trainer.state_bytes()
        machine = describe()
        return {
            "test_accuracy": summary.test_accuracy,
            "best_test_accuracy": summary.best_test_accuracy,
            "loss": summary.loss,
            "losses": [record.loss for record in summary.records],
            "epochs": summary.epochs,
            "ms_per_iteration": summary.ms_per_iteration,
            "seconds": summary.seconds,
            "compile_seconds": self.artifact.manifest["compile_seconds"],
            "peak_rss_mb": peak_rss_mb(),
            "state_bytes": sum(details.values()),
            "state_bytes_details": details,
            "threads": self.trainer.session.threads,
            "device": self.artifact.manifest["device"]["name"],
            "recipe": self.recipe.as_mapping(),
            "records": [asdict(record) for record in summary.records],
            "machine": machine,
            "date": machine["date"],
        }


def begin_run(
    recipe: Recipe,
    run_dir: Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    masks: Path | None = None,
    masks_from: Path | None = None,
    checkpoint_steps: int | None = None,
) -> Run:
    """Compile the recipe's step, and train with it from the first epoch.

    What can go wrong early goes wrong before there is a folder. Raises the MestErrors of data, models, masks, compiling
    and training.
    """
    from mest_compiler.cli.compiling import compile_with_bar, seeded_model
    from mest_compiler.cli.model_options import sparse_model
    from mest_compiler.runtime.trainer import Trainer
    from mest_compiler.schedules.cpu.sgd import Sgd
    from mest_compiler.training.data import load_data
    from mest_compiler.training.feed import steps_per_epoch
    from mest_compiler.training.run_folder import CHECKPOINT

    if (run_dir / CHECKPOINT).exists():
        raise CheckpointError(f"{run_dir} already holds a run: go on with --resume, or choose another --run-dir.")
    check_artifact_place(run_dir / ARTIFACT)
    _one_pool_of_threads()
    data = load_data(recipe.data, recipe.data_root)
    steps_per_epoch(len(data.train_y), recipe.batch)  # raises where the batch is too large
    network = seeded_model(
        recipe.model, seed=recipe.seed, classes=data.classes, in_channels=data.channels, width=recipe.width
    )
    sparse = sparse_model(
        network,
        scheme=recipe.scheme,
        sparsity=recipe.sparsity,
        profile=recipe.profile and Path(recipe.profile),
        masks=masks,
        masks_from=masks_from,
    )
    artifact = compile_with_bar(
        recipe.model,
        sparse.model,
        input_shape=data.input_shape,
        batch=recipe.batch,
        profile=sparse.profile,
        masks=sparse.masks,
        masks_from_weights=sparse.masks_from_weights,
        seed=recipe.seed,
        optimizer=Sgd(recipe.momentum, recipe.weight_decay, recipe.nesterov),
        device=device,
        threads=threads,
        name=recipe.model,
    )
    trainer = Trainer(artifact, threads, recipe.seed)
    with _unless_begun(run_dir):
        artifact.save(run_dir / ARTIFACT)
        return _train(recipe, run_dir, data, artifact, trainer, False, checkpoint_steps)


def resume_run(
    recipe: Recipe, run_dir: Path, *, threads: int | None = None, checkpoint_steps: int | None = None
) -> Run:
    """Go on with the step that the run was begun with, from its last checkpoint; nothing is compiled.

    The kernels' way of adding up is part of the step, so the number of threads changes nothing of what is computed.
    """
    from mest_compiler.runtime.artifact import Artifact
    from mest_compiler.runtime.trainer import Trainer
    from mest_compiler.training.data import load_data

    check_writable(run_dir / ARTIFACT)
    _one_pool_of_threads()
    artifact = Artifact.load(run_dir / ARTIFACT)
    data = load_data(recipe.data, recipe.data_root)
    trainer = Trainer(artifact, threads, recipe.seed)
    return _train(recipe, run_dir, data, artifact, trainer, True, checkpoint_steps)


def clear_run(run_dir: Path) -> None:
    """Remove what an earlier run left in its folder, and nothing else."""
    from mest_compiler.training.run_folder import CHECKPOINT

    shutil.rmtree(run_dir / ARTIFACT, ignore_errors=True)
    for name in (RECIPE_FILE, "log.jsonl", CHECKPOINT, WEIGHTS, MASKS, SUMMARY):
        (run_dir / name).unlink(missing_ok=True)


def refuse_masks(masks: Path | None, masks_from: Path | None) -> None:
    """Raise MaskError if masks are given for a run that has its own."""
    if masks is not None or masks_from is not None:
        raise MaskError("A run that is resumed goes on with its own masks: leave out --masks and --masks-from.")


def _train(
    recipe: Recipe,
    run_dir: Path,
    data: DataSet,
    artifact: Artifact,
    trainer: Trainer,
    resume: bool,
    checkpoint_steps: int | None,
) -> Run:
    import safetensors.numpy

    from mest_compiler.sparsity.masks import save_masks
    from mest_compiler.training.loop import train
    from mest_compiler.training.progress import RichReporter
    from mest_compiler.training.whole_file import whole_file

    # The trainer is the loop's backend as it is.
    summary = train(
        trainer,
        data,
        recipe,
        run_dir,
        resume=resume,
        reporter=RichReporter(console),
        checkpoint_steps=checkpoint_steps,
    )
    with whole_file(run_dir / WEIGHTS) as path:
        path.write_bytes(safetensors.numpy.save(trainer.state()))
    if trainer.structures:
        save_masks(run_dir / MASKS, trainer.masks())
    return Run(recipe, data, artifact, trainer, summary)


def _one_pool_of_threads() -> None:
    """PyTorch's threads would fight with the step's for the cores."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def _unless_begun(run_dir: Path) -> Iterator[None]:
    """Leave nothing of a run that ends before its first checkpoint."""
    from mest_compiler.training.run_folder import CHECKPOINT

    with no_empty_folders(run_dir):
        try:
            yield
        finally:
            if not (run_dir / CHECKPOINT).exists():
                clear_run(run_dir)
