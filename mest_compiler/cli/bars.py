"""Progress bars of long work, on standard error; nothing where that is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mest_compiler.cli.output import console


@contextmanager
def phase_bar(title: str, phases: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """A bar over named phases; what is yielded is called with the name of each one as it begins, and with
    "name: detail" for what happens within it."""
    with _bar(auto_refresh=True) as bar:
        task = bar.add_task(title, total=len(phases))

        def begin(phase: str) -> None:
            bar.update(task, description=f"{title}: {phase}", completed=phases.index(phase.partition(":")[0]))

        yield begin
        bar.update(task, description=title, completed=len(phases))


@contextmanager
def turn_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar over the turns of a comparison; what is yielded is a `bench.rounds.Progress`.

    It is drawn between turns only: a thread that redraws would take time from the contestant whose turn it is.
    """
    with _bar(auto_refresh=False) as bar:
        task = bar.add_task(title, total=None)
        bar.refresh()

        def turn(done: int, total: int, name: str) -> None:
            bar.update(task, description=f"{title}: {name}", completed=done, total=total, refresh=True)

        yield turn


def _bar(auto_refresh: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        auto_refresh=auto_refresh,
        disable=not console.is_terminal,
    )
