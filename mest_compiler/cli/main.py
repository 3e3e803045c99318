"""`mest`: the commands by name, and the one place where errors become sentences and exit statuses.

A command `mest NAME` is the function `command` of the module `mest_compiler.cli.NAME` (or its group `app`), loaded
when it is asked for. Such a module imports PyTorch, TVM and the rooms that need them inside the function, so that
`mest --help` answers at once.
"""

import errno
from collections.abc import Sequence
from typing import Annotated

import typer

from mest_compiler.cli.lazy import LazyGroup
from mest_compiler.cli.logs import log_to_console
from mest_compiler.cli.output import say
from mest_compiler.errors import MestError

COMMANDS = ("train", "compile", "profile", "bench", "tune", "devices", "report", "export", "demo")
FAILED = 2
INTERRUPTED = 130
UNWRITABLE = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
"""The system's refusals that a user can mend; any other OSError is a mistake of ours and keeps its
traceback."""


UsageError = typer.BadParameter.__base__
"""What Typer raises for arguments that it cannot accept; it exports no name for it."""


class Commands(LazyGroup):
    """The group of `COMMANDS`."""

    package = "mest_compiler.cli"

    def names(self) -> Sequence[str]:
        """In the order in which they are usually needed."""
        return COMMANDS

    def invoke(self, ctx: typer.Context) -> object:
        """Run the command; what went wrong becomes one sentence on standard error and an exit status."""
        try:
            return super().invoke(ctx)
        except MestError as error:
            say(f"mest: {_one_line(error)}")
            raise typer.Exit(FAILED) from error
        except UsageError as error:
            if sentence := _one_line(error.format_message()):  # none where Typer has shown a group's help instead
                say(f"mest: {sentence}")
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as error:
            say("mest: interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            where = error.filename or "the output"
            say(f"mest: cannot use '{where}': {error.strerror}; choose another place or make room")
            raise typer.Exit(FAILED) from error


Verbose = Annotated[
    int,
    typer.Option(
        "-v",
        "--verbose",
        count=True,
        show_default=False,
        metavar="",
        help="Say on standard error what the compiler does and how long it takes; -vv: each pass and each measured "
        "kernel too. Stands before the command: mest -v compile ...",
    ),
]

app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def mest(verbose: Verbose = 0) -> None:
    """Compile, run and time the sparse training step of a PyTorch model."""
    log_to_console(verbose)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="mest")


def _one_line(error: Exception | str) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    main()
