"""What commands print: results as JSON where they were asked for, everything else on standard error."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from mest_compiler.files import write_text

STANDARD_OUTPUT = "-"

console = Console(stderr=True)
"""For progress bars and tables: standard output carries JSON and nothing else."""


def say(sentence: str) -> None:
    """Print a sentence on standard error as it is: no markup, no wrapping, no colours."""
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def write_json(target: str, data: Mapping[str, Any]) -> None:
    """Write `data` to the file `target`, whole or not at all, or to standard output when `target` is "-".

    Numbers that JSON does not have (NaN, infinities) become null; NumPy scalars and arrays and paths become
    plain.
    """
    text = json.dumps(_plain(data), indent=2, allow_nan=False) + "\n"
    if target == STANDARD_OUTPUT:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_text(target, text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy, without importing it
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
