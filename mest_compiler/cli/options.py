"""Options that several commands share, so that they are called, checked and described the same everywhere.

Use as types: `def command(model: Model, device: Device = "cpu", threads: Threads = None, json: Json = None)`.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from mest_compiler.cli.output import STANDARD_OUTPUT


def _fraction(value: float | None) -> float | None:
    if value is not None and not 0 <= value < 1:
        raise typer.BadParameter(f"{value:g} is not a fraction of zeros: it must be at least 0 and less than 1")
    return value


def writable(target: str | None) -> str | None:
    """Refuse now what could not be written after an hour of work."""
    if target is None or target == STANDARD_OUTPUT:
        return target
    path = Path(target)
    if path.is_dir():
        raise typer.BadParameter(f"'{target}' is a folder; name a file, or - for standard output")
    if not os.access(path.parent, os.W_OK):
        raise typer.BadParameter(f"the folder '{path.parent}' does not exist or cannot be written to")
    return target


Model = Annotated[str, typer.Argument(help="A model's name, or FILE.py:CALLABLE for one of your own.", metavar="MODEL")]
RunDir = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run, finished or not, that mest train wrote.")
]
Device = Annotated[str, typer.Option(help="Device to compile for and run on: cpu, this machine's.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")]
Batch = Annotated[int, typer.Option(min=1, help="Examples in a batch.")]
Scheme = Annotated[
    str | None,
    typer.Option(
        help="Sparsity scheme, with --sparsity: unstructured (single weights), block (4 filters x 1 input channel; "
        "block:MxN for other sizes), pattern (3x3 kernels of four weights), channel, filter; or auto: in each layer "
        "the one that is measured to be the fastest.",
    ),
]
Sparsity = Annotated[
    float | None,
    typer.Option(callback=_fraction, help="Fraction of the weights that are zero, such as 0.9; 0 is a dense model."),
]
Profile = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="YAML file of schemes and ratios by layer, instead of --scheme and --sparsity.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Where all random numbers start: weights, masks, data.")]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", callback=writable, help="Write the result as JSON, - for standard output."),
]
