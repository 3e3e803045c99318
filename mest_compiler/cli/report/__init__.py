"""`mest report`: the paper's figures and tables, measured here. A report is a module of this folder with a function
`command`, and nothing else needs to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from pkgutil import iter_modules

import typer

from mest_compiler.cli.lazy import LazyGroup


class Reports(LazyGroup):
    """The group of this folder's modules."""

    package = __name__

    def names(self) -> Sequence[str]:
        """The modules' names, with hyphens, in alphabetical order."""
        return sorted(module.name.replace("_", "-") for module in iter_modules(__path__))


app = typer.Typer(name="report", cls=Reports, no_args_is_help=True, add_completion=False)


@app.callback()
def report() -> None:
    """Measure a figure or a table of the MEST paper on this machine, or draw how a run went and what it forgot."""
