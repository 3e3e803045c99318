"""`mest -v`: the log on standard error, and only where it is asked for."""

import logging

import pytest

from mest_compiler.cli.logs import PACKAGE, log_to_console


@pytest.fixture(autouse=True)
def _as_before():
    logger = logging.getLogger(PACKAGE)
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.mark.parametrize(("verbose", "said"), [(0, []), (1, ["done"]), (2, ["done", "tried"]), (5, ["done", "tried"])])
def test_as_much_as_was_asked_for(verbose: int, said: list[str], capsys) -> None:
    log_to_console(verbose)
    logger = logging.getLogger(f"{PACKAGE}.some.room")
    logger.info("done")
    logger.debug("tried")
    shown = capsys.readouterr()
    assert shown.out == "" and [word for word in ("done", "tried") if word in shown.err] == said


def test_the_option_stands_before_the_command(mest, refused) -> None:
    mest("-vv", "profile", "resnet20", "--scheme", "block", "--sparsity", "0.5")
    assert logging.getLogger(PACKAGE).level == logging.DEBUG
    assert "No such option: -v" in refused("profile", "resnet20", "-v")
