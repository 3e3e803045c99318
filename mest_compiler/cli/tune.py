"""`mest tune`: searches the knobs of a step's kernels on the device they are for, and keeps what it finds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mest_compiler.cli.devices.options import Adb, Key, Server, TrackerAt
from mest_compiler.cli.model_options import Channels, Classes, Plane, Width
from mest_compiler.cli.options import (
    Batch,
    Device,
    Json,
    Profile,
    ProfileRatios,
    Scheme,
    Seed,
    Sparsity,
    Threads,
    writable,
)
from mest_compiler.cli.output import write_json
from mest_compiler.errors import TuningError

What = Annotated[
    str | None,
    typer.Argument(
        metavar="WHAT",
        help="layer:CHANNELS,FILTERS,KERNEL,HEIGHTxWIDTH (with ,s2 at its end for stride 2), a model's name, or "
        "FILE.py:CALLABLE.",
        show_default="with --show: all that is on record",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        help="Stop after about so many minutes. A part of them is left for the comparison at the end: half for a model "
        "on this machine's CPU, whose step is compiled again and again for that.",
        show_default="no limit",
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        help="Candidates to measure in all, those of earlier runs among them.",
        show_default="with --minutes no limit, else 32 a task",
    ),
]
Logs = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder of tuning logs, a folder a device in it, instead of the one that mest compile looks into. Set "
        "MEST_TUNING_LOGS to it to have it looked into.",
        show_default=False,
    ),
]
Only = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Search only the N tasks that take the most time in a step."),
]
Devices = Annotated[int, typer.Option(min=1, help="How many devices of the key to measure on at the same time.")]
CoolDown = Annotated[
    float,
    typer.Option(
        min=0,
        max=60,
        metavar="SECONDS",
        help="Pause before a candidate is timed once more because its times were apart: let a hot phone cool down.",
    ),
]
Show = Annotated[bool, typer.Option("--show", help="Show what is on record for the device, and search nothing.")]
Plot = Annotated[
    str | None,
    typer.Option(metavar="FILE", callback=writable, help="Draw the best time against trials, as PNG; with --show."),
]
CheckModel = Annotated[
    bool,
    typer.Option(
        "--check-model",
        help="Measure instead how well the cost model ranks candidates that it has not seen, and random search beside "
        "it at equal --trials, on the three heaviest tasks; nothing is kept.",
    ),
]


def command(
    what: What = None,
    scheme: Scheme = None,
    sparsity: Sparsity = None,
    profile: Profile = None,
    profile_ratios: ProfileRatios = None,
    width: Width = 1.0,
    channels: Channels = 3,
    plane: Plane = "32x32",
    classes: Classes = 10,
    batch: Batch = 64,
    device: Device = "cpu",
    threads: Threads = None,
    minutes: Minutes = None,
    trials: Trials = None,
    only: Only = None,
    output: Logs = None,
    tracker: TrackerAt = None,
    key: Key = None,
    server: Server = None,
    adb: Adb = None,
    devices: Devices = 1,
    cool_down: CoolDown = 0.1,
    show: Show = False,
    plot: Plot = None,
    check_model: CheckModel = False,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Tune the kernels of a training step, or of a layer: measure them with other knobs and keep the fastest.

    MetaSchedule proposes candidates, XGBoost says which are worth measuring; each one is compared with a plain
    definition before its time counts. At the end the fastest are compared with the default knobs in turns, those of a
    model on this machine's CPU within its whole step. Every trial is written down at once: after Ctrl-C the same
    command goes on where it stopped. mest compile, bench and train look the tuned knobs up by themselves.

    Examples:

    mest tune resnet32 --width 2 --scheme block --sparsity 0.9 --minutes 20

    mest tune layer:64,64,3,16x16 --scheme pattern --sparsity 0.9 --trials 100 --output runs/logs

    mest tune --show --plot runs/tuning.png
    """
    from mest_compiler.cli import tuning
    from mest_compiler.runtime.remote.where import Where

    if plot is not None and not show:
        raise TuningError("--plot draws what is on record: add --show.")
    if show:
        if check_model:
            raise TuningError("--show measures nothing: leave out --check-model.")
        result = tuning.shown(device, threads, output, plot)
    else:
        if what is None:
            raise TuningError("What is to be tuned? Name a model or a layer, as in mest tune resnet32, or add --show.")
        where = Where.of(tracker, key, server, adb)
        places = tuning.places(where, devices)
        asked = tuning.Asked(
            what,
            scheme,
            sparsity,
            profile,
            width,
            channels,
            plane,
            classes,
            batch,
            device,
            threads,
            seed,
            profile_ratios,
            where,
        )
        asked.say_notes()
        if check_model:
            result = tuning.checked(asked, trials, places, cool_down)
        else:
            result = tuning.tuned(asked, trials, minutes, only, output, places, cool_down)
    if json is not None:
        write_json(json, result)
