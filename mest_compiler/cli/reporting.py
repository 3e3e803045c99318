"""What the reports share: their options, where they write, and what was typed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from mest_compiler.cli.output import say, write_json
from mest_compiler.cli.places import check_writable
from mest_compiler.errors import BenchError

Row = TypeVar("Row")

Output = Annotated[
    Path, typer.Option("--output", metavar="DIR", file_okay=False, help="Folder for the picture and the CSV file.")
]
Rounds = Annotated[int, typer.Option(min=1, help="Alternating rounds, of whose times medians are taken.")]
NOT_TYPED = frozenset({"resume", "json"})
"""Options that say nothing about what is measured: the same results may have been got without them."""


def typed(context: typer.Context) -> str:
    """The command as it was typed, its options with their long names and in the order of --help."""
    words = [context.command_path]
    for option in context.command.params:
        name = option.name
        if name not in NOT_TYPED and context.get_parameter_source(name).name == "COMMANDLINE":
            words += [option.opts[0], shlex.quote(str(context.params[name]))]
    return " ".join(words)


def names_of(text: str | None, everything: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a list such as "block,pattern", each once; everything where none is given."""
    if text is None:
        return everything
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise BenchError(f"{text!r} names nothing: write names with commas between them, such as {everything[0]}.")
    return names


def fractions_of(text: str | None, everything: tuple[float, ...]) -> tuple[float, ...]:
    """The numbers of a list such as "0.5,0.9"; everything where none is given."""
    if text is None:
        return everything
    try:
        numbers = tuple(float(number) for number in text.split(",") if number.strip())
    except ValueError:
        numbers = ()
    if not numbers or not all(0 <= number < 1 for number in numbers):
        raise BenchError(f"{text!r} is no list of sparsities: write fractions of zeros from 0 to below 1: 0.5,0.9.")
    return numbers


def prepare(output: Path, file: str, kind: type[Row], resume: bool) -> tuple[Path, list[Row]]:
    """The path of a report's table in the output folder, and the rows that it holds already, to go on from.

    The path is tried; the folder itself is made when there is something to write.

    Raises:
        BenchError: the table exists and is not to be gone on with, or is none of this report's.
    """
    from mest_compiler.bench.csv_rows import read_rows

    path = output / file
    check_writable(path)
    if not path.exists():
        return path, []
    if not resume:
        raise BenchError(f"{path} exists: go on with --resume, choose another --output, or remove it.")
    return path, read_rows(path, kind)


def conclude(
    context: typer.Context,
    output: Path,
    files: tuple[str, str],
    count: str,
    result: Mapping[str, Any],
    json: str | None,
) -> None:
    """What a report ends with: the sentence that says where its table and its picture are, and its result as JSON.

    files: names of these two in the folder `output`. count: what they show, such as "12 rows". result: JSON values,
    beside which go the files, the command as it was typed, the machine and the date. json: where to; None: nowhere.
    """
    from mest_compiler.bench.machine import describe

    table, picture = (output / name for name in files)
    say(f"{picture}, {table}: {count}")
    if json is not None:
        machine = describe()
        origin = {"command": typed(context), "machine": machine, "date": machine["date"]}
        write_json(json, {**result, "files": {"csv": table, "png": picture}, **origin})
