"""`mest demo`: in a few minutes, that a sparse network learns through the compiled step, and how fast the step is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mest_compiler.cli.options import Json, Threads
from mest_compiler.cli.output import say, write_json
from mest_compiler.cli.tables import mib, show, show_comparison, times
from mest_compiler.errors import MestError

if TYPE_CHECKING:
    from mest_compiler.cli.training import Run
    from mest_compiler.training.recipe import Recipe

PROMISED = 0.95
"""Test accuracy that the demo must reach."""
ROUNDS = 11

RunDir = Annotated[
    Path,
    typer.Option("--run-dir", file_okay=False, help="Folder of the run; replaces an earlier demo's files there."),
]


def command(run_dir: RunDir = Path("runs/demo"), threads: Threads = None, json: Json = None) -> None:
    """Train a ResNet-20 without nine tenths of its weights on MNIST, then time its step against dense PyTorch.

    Which weights these are changes while it trains (MEST's elastic mutation), without compiling again.

    Needs no download and some minutes on two cores. The folder of the run gets summary.json with all the numbers.

    Examples:

    mest demo

    mest demo --threads 1 --run-dir runs/demo-one-thread
    """
    from mest_compiler.training.recipe import load_recipe

    summary = demonstrate(load_recipe("demo"), run_dir, threads=threads, rounds=ROUNDS)
    if json is not None:
        write_json(json, summary)
    if summary["test_accuracy"] < PROMISED:
        raise MestError(
            f"The demo reached a test accuracy of {summary['test_accuracy']:.2%}, less than {PROMISED:.0%}: "
            f"look into {run_dir / 'log.jsonl'} for what went wrong."
        )


def demonstrate(recipe: Recipe, run_dir: Path, *, threads: int | None, rounds: int) -> dict[str, Any]:
    """Train as the recipe says, time the step, show both, and write summary.json; its values."""
    from mest_compiler.cli.training import SUMMARY, begin_run, clear_run

    say(
        f"training {recipe.model} with {recipe.sparsity:.0%} of its weights removed ({recipe.scheme}, method "
        f"{recipe.method}) on {recipe.data}"
    )
    clear_run(run_dir)
    run = begin_run(recipe, run_dir, threads=threads)
    losses = [record.loss for record in run.summary.records]
    say(f"loss {losses[0]:.4f} in the first epoch, {losses[-1]:.4f} in the last; {run.summary.records[-1].test_text}")
    timed = _timed(run, run_dir, rounds)
    facts = run.facts()
    # what was measured side by side counts, where both have a number
    summary = {**timed, **{key: facts[key] for key in facts if key not in timed}, "training": facts}
    write_json(str(run_dir / SUMMARY), summary)
    _show(summary)
    say(f"all numbers: {run_dir / SUMMARY}")
    return summary


def _timed(run: Run, run_dir: Path, rounds: int) -> dict[str, Any]:
    """The report of the run's step against PyTorch, both from the first weights, with the masks of the end."""
    import tempfile

    from mest_compiler.bench.torch_network import NetworkCase
    from mest_compiler.cli.measuring import measured
    from mest_compiler.cli.training import MASKS
    from mest_compiler.losses.base import INPUT

    recipe, built = run.recipe, run.built
    case = NetworkCase(
        model=recipe.model,
        classes=run.data.sizes["classes"],
        input_shape=run.data.inputs[INPUT].shape,
        batch=recipe.batch,
        seed=recipe.seed,
        width=recipe.width,
        masks=str(run_dir / MASKS),
    )
    state = {name: tensor.numpy() for name, tensor in case.network().state_dict().items()}
    step = built.artifact.started_from(state, built.engine.masks())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "step")
        step.save(path)
        return measured({"sparse": step}, {"sparse": path}, case, recipe.seed, built.threads, rounds, False)


def _show(summary: dict[str, Any]) -> None:
    show_comparison(f"one iteration of {summary['batch']} images, {summary['threads']} threads", summary)
    ms, size = summary["ms"], summary["state_bytes"]
    show(
        "sparse step against dense PyTorch",
        ("", "sparse step", "dense PyTorch", "ratio"),
        (
            (
                "iteration, ms",
                f"{ms['sparse']:.1f}",
                f"{ms['torch']:.1f}",
                f"{times(ms['torch'] / ms['sparse'])} faster",
            ),
            (
                "weights + gradients + momentum, MiB",
                mib(size["sparse"]),
                mib(size["torch"]),
                f"{times(size['torch'] / size['sparse'])} smaller",
            ),
        ),
    )
