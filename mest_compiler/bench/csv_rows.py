"""Tables of results as CSV files: a row a measurement, each with all that says where it comes from."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from mest_compiler.bench.machine import describe, in_words
from mest_compiler.errors import BenchError
from mest_compiler.files import write_text

Row = TypeVar("Row")
"""A flat dataclass whose fields are str, int, float or float | None; None is an empty cell."""


def origin(*, threads: int, device: str, command: str) -> dict[str, Any]:
    """What every row says about where it comes from: threads, device, machine, versions, date (UTC) and command."""
    machine = describe()
    return {
        "threads": threads,
        "device": device,
        "machine": in_words(machine),
        "torch": machine["torch"],
        "tvm": machine["tvm"],
        "date": machine["date"],
        "command": command,
    }


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write rows of one dataclass, at least one, to a CSV file, whole or not at all."""
    names = [field.name for field in fields(rows[0])]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(path, text.getvalue())


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows that `write_rows` wrote; BenchError for a file that is none of its."""
    kinds = get_type_hints(kind)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [kind(**{name: _value(row[name], kinds[name]) for name in kinds}) for row in csv.DictReader(file)]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise BenchError(
            f"{path} is no table of this report ({error}): remove it, or choose another folder."
        ) from error


def check_settings(path: Path, rows: Sequence[Any], wanted: Mapping[str, Any]) -> None:
    """Raise BenchError for the first row of a file that was measured with other settings than these, by field name."""
    for row in rows:
        for name, value in wanted.items():
            if getattr(row, name) != value:
                raise BenchError(
                    f"{path} was measured with {name} {getattr(row, name)}, not {value}: "
                    "go on with the same settings, or choose another folder."
                )


def _value(text: str, kind: Any) -> Any:
    if kind in (str, int, float):
        return kind(text)
    return float(text) if text else None
