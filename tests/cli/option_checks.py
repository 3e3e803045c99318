"""What a command came to, and checks of it, for the tables of options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Seen:
    """What a command came to. recipe: of a training run; of: arguments by the function that they were given to; stderr,
    stdout, status: of the command."""

    of: dict[str, dict[str, Any]] = field(default_factory=dict)
    stderr: str = ""
    stdout: str = ""
    status: int = 0

    @property
    def recipe(self) -> dict[str, Any]:
        """Of a training run."""
        return self.of["begin_run"]["recipe"].as_mapping()

    @property
    def step(self) -> dict[str, Any]:
        """Arguments of `compile_step`."""
        return self.of["compile_with_bar"]


Does = Callable[[Seen], object]
Option = tuple[tuple[str, ...], Does]
"""Arguments with the option among them, and what shows that it was done."""


def refuses(sentence: str) -> Does:
    """One sentence and status 2, before anything is compiled, trained or timed."""

    def check(seen: Seen) -> bool:
        (line,) = seen.stderr.splitlines()
        return sentence in line and (seen.status, seen.stdout) == (2, "")

    return check


def says(sentence: str) -> Does:
    """In a line of its own before anything is compiled or timed."""
    return lambda seen: any(line.startswith(sentence) for line in seen.stderr.splitlines())


def recipe(**fields: object) -> Does:
    """These fields of the recipe, which the run prints and keeps."""
    return lambda seen: fields.items() <= seen.recipe.items()
