"""`mest report evidence`: test accuracy by method of mutation, sparsity and scheme, on the offline images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mest_compiler.cli.bars import turn_bar
from mest_compiler.cli.options import Json
from mest_compiler.cli.places import made
from mest_compiler.cli.reporting import Output, conclude, fractions_of, names_of, prepare, typed
from mest_compiler.cli.tables import show
from mest_compiler.errors import BenchError

if TYPE_CHECKING:
    from mest_compiler.bench.evidence import Cell, Entry, Trained
    from mest_compiler.training.examples import Examples
    from mest_compiler.training.recipe import Recipe

CSV, PNG = "evidence.csv", "evidence.png"

Methods = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Some of dense, static, vanilla, em, em&s, em&s+de.", show_default="all of them"),
]
Schemes = Annotated[
    str | None, typer.Option(metavar="LIST", help="Sparsity schemes.", show_default="unstructured,block,pattern")
]
Sparsities = Annotated[
    str | None, typer.Option(metavar="LIST", help="Fractions of zeros.", show_default="0.9,0.95,0.98")
]
Seeds = Annotated[int, typer.Option(min=1, help="Runs of every cell, with the seeds 0, 1, ...")]
RecipeName = Annotated[str, typer.Option("--recipe", help="What all runs have in common: a recipe's name or file.")]
Jobs = Annotated[int, typer.Option(min=1, help="Runs at the same time, each in a process of its own.")]
ThreadsEach = Annotated[int, typer.Option("--threads", min=1, help="Threads of each run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Keep the runs of the CSV file and do those that lack.")]


def command(
    context: typer.Context,
    methods: Methods = None,
    schemes: Schemes = None,
    sparsities: Sparsities = None,
    seeds: Seeds = 3,
    recipe: RecipeName = "mnist-evidence",
    jobs: Jobs = 1,
    threads: ThreadsEach = 1,
    output: Output = Path("runs/evidence"),
    resume: Resume = False,
    json: Json = None,
) -> None:
    """Train a network by every method of mutation, at several sparsities and under several schemes, and compare.

    All runs go through the compiled step; those of one scheme and sparsity share it. The fraction that mutates at first
    is half of what a layer keeps, p = (1 - s) / 2, since the paper's 0.05 does not exist at 98 %. The folder gets
    evidence.csv, written anew whenever a step's runs are done, and evidence.png. Ctrl-C keeps what is written, and the
    same command with --resume goes on.

    Examples:

    mest report evidence --jobs 2 --output runs/evidence

    mest report evidence --methods "dense,em,em&s" --schemes block --sparsities 0.98 --seeds 1
    """
    from mest_compiler.bench import evidence
    from mest_compiler.bench.csv_rows import check_settings
    from mest_compiler.training.data import load_recipe_data
    from mest_compiler.training.recipe import load_recipe

    base = load_recipe(recipe)
    if not base.rule_of_loss.labelled:
        raise BenchError(f"This report is about right answers, and recipe {recipe} has loss {base.loss}: take another.")
    cells = evidence.cells(
        names_of(methods, evidence.METHODS),
        names_of(schemes, evidence.SCHEMES),
        fractions_of(sparsities, evidence.SPARSITIES),
    )
    path, rows = prepare(output, CSV, evidence.Trained, resume)
    data = load_recipe_data(base)
    check_settings(path, rows, evidence.settings(base, data))
    _check(base, data, cells)
    rows = _trained(base, cells, seeds, rows, path, jobs=jobs, threads=threads, command=typed(context))
    entries = evidence.table(rows)
    _draw(output / PNG, rows, entries)
    _show(entries)
    result = {"cells": [asdict(entry) for entry in entries], "runs": [asdict(row) for row in rows]}
    conclude(context, output, (CSV, PNG), f"{len(rows)} runs", result, json)


def _check(base: Recipe, data: Examples, cells: Sequence[Cell]) -> None:
    """Raise now what a cell would raise after hours of the others."""
    from mest_compiler.bench.evidence import recipe_of
    from mest_compiler.cli.training_start import check_start, first_start

    for cell in cells:
        recipe = recipe_of(cell, base, 0)
        check_start(recipe, data, first_start(recipe, data))


def _trained(
    base: Recipe, cells: Sequence[Cell], seeds: int, rows: Sequence[Trained], path: Path, *, jobs: int, threads: int,
    command: str,
) -> list[Trained]:  # fmt: skip
    """These rows and those of the cells; the CSV file has all there are at any time."""
    from mest_compiler.bench.csv_rows import write_rows
    from mest_compiler.bench.evidence import measure

    found = list(rows)
    done = {(row.cell, row.seed) for row in rows}
    wanted = [(cell, seed) for cell in cells for seed in range(seeds) if (cell, seed) not in done]
    total = len(found) + len(wanted)
    with turn_bar("evidence") as progress:
        progress(len(found), total, "training")
        for some in measure(wanted, base, jobs=jobs, threads=threads, device="cpu", command=command):
            found += some
            with made(path.parent):
                write_rows(path, sorted(found, key=lambda row: (row.scheme, row.sparsity, row.method, row.seed)))
            progress(len(found), total, "training")
    return found


def _draw(path: Path, rows: Sequence[Trained], entries: Sequence[Entry]) -> None:
    from mest_compiler.bench.plots import plot_evidence

    plot_evidence(path, rows, entries)


def _show(entries: Sequence[Entry]) -> None:
    show(
        "test accuracy (mean, deviation) and seconds of training over the seeds, images removed, state in MiB",
        ("scheme", "zeros", "method", "runs", "accuracy", "s", "ms/step", "removed", "MiB"),
        [
            (
                entry.cell.scheme or "-",
                f"{entry.cell.sparsity:.0%}",
                entry.cell.method,
                str(entry.runs),
                f"{entry.accuracy:.2%}" + ("" if entry.deviation is None else f" ± {100 * entry.deviation:.2f}"),
                f"{entry.seconds:.1f}",
                f"{entry.ms_per_iteration:.1f}",
                f"{entry.removed:.0f}",
                f"{entry.state_mb:.2f}",
            )
            for entry in entries
        ],
    )
