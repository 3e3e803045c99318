"""A training run from beginning to end, as `mest train` and `mest demo` make it, with either engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mest_compiler.cli.asked import Said, say_all, say_measured, say_otherwise
from mest_compiler.cli.compiling import say_plan
from mest_compiler.cli.model_options import AUTO
from mest_compiler.cli.output import console, say
from mest_compiler.cli.places import check_artifact_place, check_writable, no_empty_folders
from mest_compiler.cli.recipe_options import RECIPE_FILE
from mest_compiler.cli.training_engines import (
    COMPILED,
    CPU,
    TORCH,
    Built,
    check_engine,
    check_method,
    compiled_engine,
    connected_again,
    loaded_engine,
    ranks_of,
    torch_engine,
)
from mest_compiler.cli.training_start import check_start, first_start, start_of_checkpoint
from mest_compiler.errors import CheckpointError, DeviceLostError, MestError
from mest_compiler.files import clear_leftovers, remove, write_bytes
from mest_compiler.passes.options import PLAIN, StepOptions

if TYPE_CHECKING:
    from mest_compiler.cli.training_start import Start
    from mest_compiler.runtime.remote.where import Where
    from mest_compiler.training.examples import Examples
    from mest_compiler.training.ranks import Ranks
    from mest_compiler.training.recipe import Recipe
    from mest_compiler.training.records import Summary

ARTIFACT, WEIGHTS, MASKS, SUMMARY = "artifact", "weights.safetensors", "masks.safetensors", "summary.json"
"""What a run leaves in its folder besides the loop's own recipe, log and checkpoint: the step as it was compiled, and
in the end the weights by torch's names, the masks and, of the demo, its numbers."""

MOST_LOSSES = 5
"""So often a device may be lost without a new checkpoint in between before a run gives up."""


@dataclass(frozen=True)
class Run:
    """A finished run and what it ran on. said: what of the asked sparsity it began with; first: whether this is the one
    of its processes that writes and prints. start: JSON values about the weights and masks it began with, none where it
    was resumed."""

    recipe: Recipe
    data: Examples
    built: Built
    summary: Summary
    said: Said
    first: bool = True
    start: Mapping[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """JSON values: scores by their metric's name, losses by epoch, times, and bytes of the training state."""
        from mest_compiler.bench.machine import describe
        from mest_compiler.training.memory import peak_rss_mb

        summary, built, details = self.summary, self.built, self.built.engine.state_bytes()
        machine = describe()
        return {
            **summary.scores(),
            "loss": summary.loss,
            "losses": [record.loss for record in summary.records],
            "epochs": summary.epochs,
            "ms_per_iteration": summary.ms_per_iteration,
            "seconds": summary.seconds,
            "compile_seconds": built.artifact and built.artifact.manifest["compile_seconds"],
            "peak_rss_mb": peak_rss_mb(),
            "state_bytes": sum(details.values()),
            "state_bytes_details": details,
            "threads": built.threads,
            "backend": built.name,
            "device": built.device,
            "asked": self.said["asked"],
            "done": self.said["done"],
            **self.start,
            "recipe": self.recipe.as_mapping(),
            "records": [record.as_mapping() for record in summary.records],
            "machine": machine,
            "date": machine["date"],
        }


def begin_run(
    recipe: Recipe,
    run_dir: Path,
    *,
    engine: str = COMPILED,
    device: str = CPU,
    threads: int | None = None,
    checkpoint_steps: int | None = None,
    options: StepOptions = PLAIN,
    where: Where | None = None,
) -> Run:
    """Train as the recipe says from the first epoch, with a step that is compiled now or with PyTorch.

    options: of the compiled step. They stay with the step, so a run that is resumed has them too. where: how the device
    of the compiled step is reached; None: it is this machine's.
    What can go wrong early goes wrong before there is a folder. Raises the MestErrors of data, models, masks, compiling
    and training.
    """
    from mest_compiler.training.data import load_recipe_data
    from mest_compiler.training.run_folder import CHECKPOINT

    check_engine(engine, device, measures=recipe.scheme == AUTO, threads=threads, where=where)
    check_method(engine, recipe)
    if engine == TORCH and options != PLAIN:
        raise MestError(
            "--backend torch keeps all activations as they are: leave out --memory-limit and --activations, or train "
            "through the compiled step."
        )
    if (run_dir / CHECKPOINT).exists():
        raise CheckpointError(f"{run_dir} already holds a run: go on with --resume, or choose another --run-dir.")
    if (run_dir / ARTIFACT).exists():
        check_artifact_place(run_dir / ARTIFACT)
    check_writable(run_dir / ARTIFACT)
    with closing(ranks_of(engine, device)) as ranks:
        data = load_recipe_data(recipe)
        start = first_start(recipe, data)
        check_start(recipe, data, start)
        said = _say_start(start, ranks)
        if engine == TORCH:
            built = torch_engine(recipe, start, device, threads, ranks)
        else:
            built = compiled_engine(recipe, data, start, device, threads, options, where)
            said = _compiled(built, said)
        _show(recipe, run_dir, ranks)
        if built.artifact is not None:
            say_plan(built.artifact.manifest["memory"])
        with _unless_begun(run_dir) if ranks.rank == 0 else nullcontext():
            if ranks.rank == 0:
                clear_run(run_dir)  # of one that was killed before its first checkpoint
            if built.artifact is not None:
                built.artifact.save(run_dir / ARTIFACT)
            run = _train(recipe, run_dir, data, built, said, ranks, False, checkpoint_steps)
            return replace(run, start=start.sparse.facts())


def resume_run(
    recipe: Recipe,
    run_dir: Path,
    *,
    engine: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    checkpoint_steps: int | None = None,
    where: Where | None = None,
    accepts_data: bool = False,
) -> Run:
    """Go on from a run's last checkpoint, whichever engine wrote it.

    engine: None is the compiled one where the run's folder holds a step, and PyTorch elsewhere. The compiled one takes
    that step, and where there is none it compiles one, with room for all that the recipe's mutation may still keep.
    PyTorch goes on from a step with micro-batches too, but with other arithmetic: its batch norm and its dropouts take
    the whole batch. device: None is the step's own, and the CPU where there is none. accepts_data: whether examples
    may have been replaced.
    """
    from mest_compiler.training.data import load_recipe_data
    from mest_compiler.training.run_folder import CHECKPOINT

    holds_step = (run_dir / ARTIFACT).exists()
    engine = engine or (COMPILED if holds_step else TORCH)
    asked, device = device, device or CPU
    # What "auto" chose stands in the checkpoint: nothing is measured again.
    loads = engine == COMPILED and holds_step
    check_engine(engine, device, measures=False, threads=None if loads else threads, where=where)
    check_method(engine, recipe)
    if not (run_dir / CHECKPOINT).exists():
        raise CheckpointError(f"{run_dir} holds no checkpoint to resume: start the run without --resume.")
    check_writable(run_dir / ARTIFACT)
    with closing(ranks_of(engine, device)) as ranks:
        if ranks.rank == 0:
            _clear_leftovers(run_dir)
        data = load_recipe_data(recipe)
        if loads:
            built = loaded_engine(recipe, run_dir / ARTIFACT, asked, threads, where)
        else:
            # PyTorch reads the checkpoint of a step that is yet to be compiled, and says what is wrong with it.
            start = start_of_checkpoint(recipe, data, run_dir / CHECKPOINT)
            built = torch_engine(recipe, start, device, threads, ranks)
        _check_resumable(recipe, run_dir, data, built, accepts_data)
        said = _began_with(built) if loads else _say_start(start, ranks)
        _show(recipe, run_dir, ranks)
        if built.name != engine:
            say(f"{run_dir} holds no compiled step: compiling it")
            built = compiled_engine(recipe, data, start, device, threads, PLAIN, where)
            said = _compiled(built, said)
            say_plan(built.artifact.manifest["memory"])
            built.artifact.save(run_dir / ARTIFACT)
        return _train(recipe, run_dir, data, built, said, ranks, True, checkpoint_steps, accepts_data)


def clear_run(run_dir: Path) -> None:
    """Remove what an earlier run left in its folder, and nothing else."""
    from mest_compiler.training.run_folder import CHECKPOINT, LOG

    _clear_leftovers(run_dir)
    for name in (ARTIFACT, RECIPE_FILE, LOG, CHECKPOINT, WEIGHTS, MASKS, SUMMARY):
        remove(run_dir / name)


def refuse_step_options(options: StepOptions) -> None:
    """Raise MestError if something is asked of the step of a run that has its own."""
    if options != PLAIN:
        raise MestError(
            "A run that is resumed goes on with the step it was begun with: leave out --memory-limit and --activations."
        )


def refuse_accepting(accepts_data: bool) -> None:
    """Raise MestError if changed data are accepted for a run that begins."""
    if accepts_data:
        raise MestError("A run that begins has no data that could have changed: leave out --accept-changed-data.")


def refuse_start(given: Mapping[str, object]) -> None:
    """Raise MestError for the first option that says what a run starts from, where one goes on."""
    for name, value in given.items():
        if value is not None:
            raise MestError(
                "A run that is resumed goes on with its own weights and its own masks: leave out "
                f"--{name.replace('_', '-')}."
            )


def _check_resumable(recipe: Recipe, run_dir: Path, data: Examples, built: Built, accepts_data: bool) -> None:
    """Raise what the loop would raise of the checkpoint."""
    from mest_compiler.training.data_efficiency import DataEfficiency
    from mest_compiler.training.mutator import Mutator
    from mest_compiler.training.run_folder import RunFolder

    mutator = Mutator(recipe.updater, built.engine, recipe.seed)
    efficiency = DataEfficiency(recipe, data.train_count)
    folder = RunFolder(run_dir, recipe, data)
    folder.resume(built.engine, mutator, efficiency, writes=False, accepts_data=accepts_data)


def _show(recipe: Recipe, run_dir: Path, ranks: Ranks) -> None:
    """Print the whole recipe, as the run's folder keeps it."""
    if ranks.rank == 0:
        say(f"# {run_dir / RECIPE_FILE}\n{recipe.text()}")


def _comment(sentence: str) -> None:
    """Print a sentence before a recipe, in whose YAML it is a comment."""
    say(f"# {sentence}")


def _say_start(start: Start, ranks: Ranks) -> Said | None:
    """What of the asked sparsity a run begins with, printed; None where compiling will tell."""
    said = start.said()
    if ranks.rank == 0:
        for sentence in start.sparse.said:
            _comment(sentence)
        if said is None:
            say_measured(start.sparse.profile, _comment)
        else:
            say_all(said, _comment)
    return said


def _compiled(built: Built, said: Said | None) -> Said:
    """What of the asked sparsity a compiled step has, printed where it was not."""
    manifest = built.artifact.manifest
    say_otherwise(said, manifest, _comment)
    return {"asked": manifest["asked"], "done": manifest["done"]}


def _began_with(built: Built) -> Said:
    """What of the asked sparsity the step of a run has that goes on, printed."""
    manifest = built.artifact.manifest
    say_all(manifest, _comment)
    return {"asked": manifest["asked"], "done": manifest["done"]}


def _train(
    recipe: Recipe,
    run_dir: Path,
    data: Examples,
    built: Built,
    said: Said,
    ranks: Ranks,
    resume: bool,
    checkpoint_steps: int | None,
    accepts_data: bool = False,
) -> Run:
    from mest_compiler.training.loop import train
    from mest_compiler.training.progress import QuietReporter, RichReporter

    first = ranks.rank == 0
    losses, progress = 0, None
    while True:
        try:
            summary = train(
                built.engine, data, recipe, run_dir,
                resume=resume, reporter=RichReporter(console) if first else QuietReporter(),
                checkpoint_steps=checkpoint_steps, ranks=ranks, accepts_data=accepts_data,
            )  # fmt: skip
            break
        except DeviceLostError as error:
            seen = _checkpoint_digest(run_dir)
            losses, progress = (losses + 1 if seen == progress else 1), seen
            if built.where is None or seen is None or losses > MOST_LOSSES:
                raise
            say(f"{error} Going on from the checkpoint.")
        built, resume = connected_again(recipe, built), True
    if first:
        _write_result(run_dir, built)
    return Run(recipe, data, built, summary, said, first)


def _checkpoint_digest(run_dir: Path) -> str | None:
    """What tells a run's checkpoint from its others; None: it has none."""
    from hashlib import sha256

    from mest_compiler.training.run_folder import CHECKPOINT

    path = run_dir / CHECKPOINT
    return sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _write_result(run_dir: Path, built: Built) -> None:
    """The trained weights by torch's names, and the masks."""
    import safetensors.numpy

    from mest_compiler.sparsity.masks import save_masks
    from mest_compiler.sparsity.schemes import kernel_shape

    write_bytes(run_dir / WEIGHTS, safetensors.numpy.save(built.engine.state()))
    # A linear layer's mask is stored as one of 1x1 kernels.
    masks = {name: mask.reshape(kernel_shape(mask.shape)) for name, mask in built.engine.masks().items()}
    if masks:
        save_masks(run_dir / MASKS, masks)


def _clear_leftovers(run_dir: Path) -> None:
    """Remove the unfinished files of a process that was killed while it wrote them."""
    from mest_compiler.training.run_folder import CHECKPOINT, LOG

    for name in (ARTIFACT, RECIPE_FILE, LOG, CHECKPOINT, WEIGHTS, MASKS, SUMMARY):
        clear_leftovers(run_dir / name)


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
