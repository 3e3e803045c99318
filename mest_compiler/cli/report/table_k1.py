"""`mest report table-k1`: a training iteration of ResNet-50 by scheme and ratio rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from mest_compiler.cli.bars import turn_bar
from mest_compiler.cli.model_options import Width
from mest_compiler.cli.options import Batch, Device, Json, Seed, Threads
from mest_compiler.cli.output import say
from mest_compiler.cli.places import check_writable, made
from mest_compiler.cli.reporting import Output, Rounds, conclude, names_of, typed
from mest_compiler.cli.tables import show, times

if TYPE_CHECKING:
    from mest_compiler.bench.rounds import Timing
    from mest_compiler.bench.table_k1 import Row
    from mest_compiler.bench.torch_network import NetworkCase

CSV, PNG = "table-k1.csv", "table-k1.png"
ROUNDS = 3

Rows = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Some of dense, pattern, block, hybrid-uniform, hybrid-1.12:1 and hybrid-proportional.",
        show_default="all of them",
    ),
]


def command(
    context: typer.Context,
    width: Width = 1.0,
    batch: Batch = 64,
    threads: Threads = None,
    device: Device = "cpu",
    rows: Rows = None,
    rounds: Rounds = ROUNDS,
    seed: Seed = 0,
    output: Output = Path("runs/table-k1"),
    json: Json = None,
) -> None:
    """Table K.1: seconds a training iteration of ResNet-50 (32x32 images, 100 classes), by scheme and ratio rule.

    Every row's step is compiled; then all of them and PyTorch's dense variants take turns in alternating rounds. Each
    has a process of its own, all alive at the same time: 2.4 to 2.7 GiB a contestant at full width and a batch of 64
    (docs/table_k1/table-k1.csv). The folder gets table-k1.csv and table-k1.png and replaces an earlier run's.

    Examples:

    mest report table-k1 --threads 2 --json -

    mest report table-k1 --rows dense,block --width 0.25 --rounds 1
    """
    from mest_compiler.bench import table_k1
    from mest_compiler.bench.torch_network import NetworkCase
    from mest_compiler.devices import get_device

    names = names_of(rows, tuple(table_k1.ROWS))
    table_k1.check_rows(names)
    threads = get_device(device, threads).threads
    check_writable(output / CSV)
    case = NetworkCase(table_k1.MODEL, table_k1.CLASSES, table_k1.INPUT_SHAPE, batch, seed, width)
    timings, zeros = _timed(case, names, device, threads, rounds)
    found = table_k1.table(timings, zeros, case, threads=threads, device=device, command=typed(context))
    _write(output, found)
    _show(found)
    samples = {name: timing.samples for name, timing in timings.items()}
    result = {"rows": {row.row: asdict(row) for row in found}, "samples_ms": samples}
    conclude(context, output, (CSV, PNG), f"{len(found)} rows", result, json)


def _timed(
    case: NetworkCase, names: Sequence[str], device: str, threads: int, rounds: int
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Timings by row, and the fraction of zeros of each."""
    from mest_compiler.bench.table_k1 import measure, profile_of_row, zeros_of
    from mest_compiler.cli.compiling import compiled

    profiles = {name: profile_of_row(name) for name in names}  # all are read before the first is compiled
    with TemporaryDirectory(prefix="mest-") as folder:
        paths, zeros = {}, {}
        for number, (name, profile) in enumerate(profiles.items()):
            artifact = compiled(case, profile, device=device, threads=threads, title=name)
            paths[name], zeros[name] = artifact.save(Path(folder, str(number))), zeros_of(artifact)
            say(f"{name}: {zeros[name]:.1%} zeros, compiled in {artifact.manifest['compile_seconds']:.0f} s")
        with turn_bar("table K.1") as progress:
            return measure(paths, case, threads=threads, rounds=rounds, progress=progress), zeros


def _write(output: Path, rows: Sequence[Row]) -> None:
    from mest_compiler.bench.csv_rows import write_rows
    from mest_compiler.bench.plots import plot_table_k1

    with made(output):
        write_rows(output / CSV, rows)
    plot_table_k1(output / PNG, rows)


def _show(rows: Sequence[Row]) -> None:
    one = rows[0]
    say(f"{one.model}, width {one.width:g}, batch {one.batch}, {one.threads} threads on {one.device}")
    show(
        "seconds an iteration and times faster than dense, here and in the paper",
        ("row", "zeros", "s here", "vs dense", "vs torch", "s paper", "vs dense"),
        [
            (
                row.row,
                f"{row.zeros:.1%}",
                f"{row.seconds:.3f}",
                times(row.speedup_dense),
                times(row.speedup_torch),
                "-" if row.paper_seconds is None else f"{row.paper_seconds:.2f}",
                times(row.paper_speedup),
            )
            for row in rows
        ],
    )
