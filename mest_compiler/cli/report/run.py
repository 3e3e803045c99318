"""`mest report run`: how training went, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mest_compiler.cli.options import Json
from mest_compiler.cli.output import say, write_json
from mest_compiler.cli.places import check_writable
from mest_compiler.errors import BenchError

if TYPE_CHECKING:
    from mest_compiler.training.run_reading import RunLog

PNG = "run.png"

RunDirs = Annotated[
    list[Path], typer.Argument(metavar="RUN_DIR", help="Folders of runs, finished or not, that mest train wrote.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", metavar="FILE", dir_okay=False, help="The picture, PNG.", show_default=f"{PNG} in the run's folder"
    ),
]


def command(run_dirs: RunDirs, output: Output = None, json: Json = None) -> None:
    """How a run went: loss, test score, sparsity with its mutations, training and unforgettable examples by epoch.

    Runs may be going on still. Several are drawn together, each in its colour, with a legend; then --output says where.

    Examples:

    mest report run runs/train

    mest report run runs/em runs/ems --output compared.png --json -
    """
    from mest_compiler.training.run_plots import plot_runs
    from mest_compiler.training.run_reading import read_log

    if output is None and len(run_dirs) > 1:
        raise BenchError("Several runs make one picture: say with --output where it goes, as in --output runs.png.")
    path = run_dirs[0] / PNG if output is None else output
    runs = [read_log(run_dir) for run_dir in run_dirs]
    for run in runs:
        if run.metric != runs[0].metric:
            raise BenchError(
                f"{runs[0].path} has a test {runs[0].metric} and {run.path} a test {run.metric}, which share no axis: "
                "draw them apart."
            )
    check_writable(path)
    plot_runs(path, runs)
    for run in runs:
        say(_sentence(run))
    say(f"{path}: {len(runs)} run{'s' * (len(runs) > 1)}")
    if json is not None:
        write_json(json, {"runs": [_facts(run) for run in runs], "files": {"png": path}})


def _facts(run: RunLog) -> dict[str, Any]:
    from mest_compiler.training.records import Summary

    return {
        "run_dir": run.path,
        "recipe": run.recipe.as_mapping(),
        "finished": run.finished,
        **Summary(run.records).scores(),
        "mutation_epochs": run.mutations,
        "records": [record.as_mapping() for record in run.records],
    }


def _sentence(run: RunLog) -> str:
    last, epochs = run.records[-1], run.recipe.epochs
    return (
        f"{run.path}: {last.epoch} of {epochs} epochs, loss {last.loss:.4f}, {last.test_text}, "
        f"{last.sparsity:.2%} zeros, {len(run.mutations)} mutations, {last.examples} training examples"
    )
