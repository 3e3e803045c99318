"""The compiler's log on the console, as much of it as was asked for."""

from __future__ import annotations

import logging

from rich.logging import RichHandler

from mest_compiler.cli.output import console

PACKAGE = "mest_compiler"
LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def verbose() -> bool:
    """Whether more was asked for than what a command says anyway."""
    return logging.getLogger(PACKAGE).isEnabledFor(logging.INFO)


def log_to_console(verbose: int) -> None:
    """Log on standard error from now on. verbose: 0 nothing new; 1 each phase; 2 each pass and measured kernel too."""
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(LEVELS[min(verbose, len(LEVELS) - 1)])
    if verbose and not any(isinstance(handler, RichHandler) for handler in logger.handlers):
        logger.addHandler(RichHandler(console=console, show_path=False, markup=False, highlighter=None))
