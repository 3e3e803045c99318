"""`mest report figure2`: speed-up of one layer against sparsity, by scheme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mest_compiler.cli.bars import turn_bar
from mest_compiler.cli.options import Batch, Device, Json, Seed
from mest_compiler.cli.output import say
from mest_compiler.cli.places import made
from mest_compiler.cli.reporting import Output, Rounds, conclude, fractions_of, names_of, prepare, typed
from mest_compiler.cli.tables import show, times
from mest_compiler.errors import BenchError

if TYPE_CHECKING:
    from mest_compiler.bench.break_even import BreakEven
    from mest_compiler.bench.figure2 import Figure, Point

CSV, PNG = "figure2.csv", "figure2.png"
ROUNDS = 11

Layer = Annotated[
    str, typer.Option(metavar="LAYER", help="The layer, as mest bench reads it; the paper's where none is given.")
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
Schemes = Annotated[
    str | None,
    typer.Option(
        metavar="LIST", help="Some of unstructured, block, pattern, channel and filter.", show_default="all of them"
    ),
]
Sparsities = Annotated[
    str | None,
    typer.Option(
        metavar="LIST", help="Fractions of zeros, such as 0.5,0.9.", show_default="tenths to 0.9, then 0.95 and 0.98"
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Keep the points that --output holds already, and measure the others, and those again that something "
        "else slowed.",
    ),
]


def command(
    context: typer.Context,
    layer: Layer = "layer:64,64,3,16x16",
    batch: Batch = 64,
    threads: Threads = 1,
    device: Device = "cpu",
    schemes: Schemes = None,
    sparsities: Sparsities = None,
    rounds: Rounds = ROUNDS,
    seed: Seed = 0,
    output: Output = Path("runs/figure2"),
    resume: Resume = False,
    json: Json = None,
) -> None:
    """Figure 2: how much faster than dense PyTorch one layer is, by scheme and sparsity.

    Timed are the forward convolution and both gradients. All schemes of one sparsity, our dense kernels and PyTorch's
    dense variants take turns in alternating rounds, every one in a process of its own; the fastest PyTorch variant of
    the same run counts. The folder gets figure2.csv, written anew after every sparsity, and figure2.png. Ctrl-C keeps
    what was measured, and the same command with --resume goes on. Where other work slowed the machine's cores even in
    the calmest rounds (column slowed), --resume measures again and keeps the calmer one. Ratios that a scheme cannot
    have, such as patterns below 5/9, are left out.

    Examples:

    mest report figure2 --output runs/figure2

    mest report figure2 --schemes block,unstructured --sparsities 0.7,0.8,0.9 --threads 2 --json -
    """
    from mest_compiler.bench.figure2 import SCHEMES, SPARSITIES, Figure, Point, break_evens, plan
    from mest_compiler.bench.layer_spec import LayerSpec
    from mest_compiler.devices import get_device

    figure = Figure(
        LayerSpec.parse(layer), batch, seed, get_device(device, threads).threads, rounds, device, typed(context)
    )
    chosen = names_of(schemes, SCHEMES), fractions_of(sparsities, SPARSITIES)
    plan(figure.layer, *chosen)  # raises for what does not exist
    path, points = prepare(output, CSV, Point, resume)
    figure.check(path, points)
    done = [point for point in points if point.calm]
    points = _measured(figure, plan(figure.layer, *chosen, done=done), points, path)
    if not points:
        raise BenchError("None of these schemes can have one of these sparsities: choose others.")
    gains = break_evens(points)
    _draw(output / PNG, points, gains)
    result = _result(figure, points, gains)
    _show(points, result["break_even"])
    slowed = sum(not point.calm for point in points)
    if slowed:
        say(f"{slowed} points were slowed by other work on this machine: --resume measures them again")
    conclude(context, output, (CSV, PNG), f"{len(points)} points", result, json)


def _measured(figure: Figure, groups: Sequence[Any], points: Sequence[Point], path: Path) -> list[Point]:
    """These points and those of the groups; the CSV file has all there are at any time."""
    from mest_compiler.bench.csv_rows import write_rows
    from mest_compiler.bench.figure2 import calmest, measure

    found = calmest(points)
    try:
        with turn_bar("figure 2") as progress:
            for some in measure(figure, groups, progress):
                found = calmest([*found, *some])
                with made(path.parent):
                    write_rows(path, found)
    except KeyboardInterrupt:
        wanted = {(point.scheme, point.sparsity) for point in points} | {(n, s) for s, names in groups for n in names}
        if found:
            kept = f"{path} keeps {len(found)} of {len(wanted)} points"
            say(f"{kept}: the same command with --resume measures the others")
        raise
    return found


def _draw(path: Path, points: Sequence[Point], gains: dict[str, BreakEven]) -> None:
    from mest_compiler.bench.plots import plot_figure2

    plot_figure2(path, points, gains)


def _result(figure: Figure, points: Sequence[Point], gains: dict[str, BreakEven]) -> dict[str, Any]:
    from mest_compiler.bench.figure2 import PAPER

    return {
        **figure.settings(),
        "points": [asdict(point) for point in points],
        "break_even": {
            scheme: {**asdict(gain), "text": str(gain), "paper": PAPER.get(scheme)} for scheme, gain in gains.items()
        },
    }


def _show(points: Sequence[Point], gains: dict[str, dict[str, Any]]) -> None:
    """Speed-ups by sparsity and scheme, and from where on each scheme gains."""
    by_place = {(point.sparsity, point.scheme): times(point.speedup_torch) for point in points}
    sparsities = sorted({point.sparsity for point in points})
    rows = [(f"{s:.1%}", *(by_place.get((s, scheme), "-") for scheme in gains)) for s in sparsities]
    one = points[-1]
    say(f"{one.layer}, batch {one.batch}, {one.threads} threads on {one.device}")
    show(
        "times faster than dense PyTorch",
        ("zeros", *gains),
        rows,
    )
    show(
        "gains from",
        ("scheme", "here", "the paper's phone GPU"),
        [
            (scheme, gain["text"], "not stated" if gain["paper"] is None else f"{gain['paper']:.0%}")
            for scheme, gain in gains.items()
        ],
    )
