"""Options that several commands share, so that they are called, checked and described the same everywhere.

Use as types: `def command(model: Model, device: Device = "cpu", threads: Threads = None, json: Json = None)`.
"""

from __future__ import annotations

import os
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mest_compiler.cli.output import STANDARD_OUTPUT

if TYPE_CHECKING:
    from mest_compiler.passes.options import StepOptions

_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)", re.IGNORECASE)
_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
STORED = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Values of --activations, and the dtypes of `StepOptions.stored`."""


def _fraction(value: float | None) -> float | None:
    if value is not None and not 0 <= value < 1:
        raise typer.BadParameter(f"{value:g} is not a fraction of zeros: it must be at least 0 and less than 1")
    return value


def _ratios(name: str | None) -> str | None:
    if name not in (None, "weights", "kernels"):
        raise typer.BadParameter(f"{name!r} is nothing that ratios are fractions of: use weights or kernels")
    return name


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


def bytes_of(text: str) -> int:
    """Bytes of a size such as "200MB", "1.5 GiB" or "1000000"."""
    match = _SIZE.fullmatch(text.strip())
    unit = match and _UNITS.get(match[2].lower())
    if not unit:
        raise typer.BadParameter(
            f"{text!r} is no size: write a number of bytes, or one with kB, MB, GB, KiB, MiB or GiB, such as 200MB"
        )
    size = int(Decimal(match[1]) * unit)
    if size < 1:
        raise typer.BadParameter(f"{text!r} is not a size that anything fits in: it must be at least one byte")
    return size


def _stored(name: str | None) -> str | None:
    if name is not None and name not in STORED:
        raise typer.BadParameter(f"{name!r} is no way to store activations: use {' or '.join(STORED)}")
    return name


def step_options(memory_limit: int | None, activations: str | None) -> StepOptions:
    """What --memory-limit and --activations ask of the compiler."""
    from mest_compiler.passes.options import StepOptions

    return StepOptions(memory_limit=memory_limit, stored=activations and STORED[activations])


Model = Annotated[str, typer.Argument(help="A model's name, or FILE.py:CALLABLE for one of your own.", metavar="MODEL")]
RunDir = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run, finished or not, that mest train wrote.")
]
Device = Annotated[
    str,
    typer.Option(
        help="Device to compile for and run on: cpu, this machine's; opencl; galaxy-s20; or a profile's YAML file."
    ),
]
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
ProfileRatios = Annotated[
    str | None,
    typer.Option(
        callback=_ratios,
        metavar="weights|kernels",
        help="What the ratios of a profile with `prune_ratios` are fractions of: weights, or kernels that are removed "
        "whole, as the MEST authors' files for scheme pattern have it (0.775 for 0.9 of the weights).",
        show_default="weights",
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="cross_entropy (of labels, the default), mse or bce_with_logits (of targets in the output's shape).",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Where all random numbers start: weights, masks, data.")]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", callback=writable, help="Write the result as JSON, - for standard output."),
]
MemoryLimit = Annotated[
    int | None,
    typer.Option(
        parser=bytes_of,
        metavar="SIZE",
        help="Keep the planned peak of all training memory under this size, such as 200MB or 1.5GiB: activations are "
        "computed again instead of kept, and where that is not enough a batch is trained in parts whose gradients are "
        "added up (batch norm then sees a part at a time, as in PyTorch's gradient accumulation).",
        show_default="no limit",
    ),
]
Activations = Annotated[
    str | None,
    typer.Option(
        callback=_stored,
        metavar="fp32|fp16|bf16",
        help="How activations lie in memory, in half of it and rounded: bf16 on CPUs, as they wait for the backward "
        "pass; fp16 on OpenCL devices, from where they are computed on. The arithmetic stays fp32.",
        show_default="fp32",
    ),
]
