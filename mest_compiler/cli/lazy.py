"""Groups of commands whose modules are loaded when they are looked up, so that `--help` answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import typer
from typer.core import TyperGroup


class LazyGroup(TyperGroup):
    """A group in which the command `a-b` is the function `command` of the module `a_b` of a package.

    A module may offer `app`, a group of its own, instead.
    """

    package: str
    """Dotted name of the package, said by the subclass."""

    def names(self) -> Sequence[str]:
        """Names of the commands, in the order in which --help lists them."""
        raise NotImplementedError

    def list_commands(self, ctx: typer.Context) -> list[str]:
        """See `names`."""
        return list(self.names())

    def get_command(self, ctx: typer.Context, cmd_name: str):
        """The command as Typer builds it, None for a name that is none."""
        if cmd_name not in self.names():
            return None
        module = import_module(f"{self.package}.{cmd_name.replace('-', '_')}")
        if hasattr(module, "app"):
            return typer.main.get_command(module.app)
        single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        single.command(cmd_name)(module.command)
        return typer.main.get_command(single)
