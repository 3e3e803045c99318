"""What a person sees of a run while it goes: a table that grows by a row an epoch with a bar below it, or nothing."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mest_compiler.losses.base import ACCURACY, ERROR
from mest_compiler.training.records import EpochRecord
from mest_compiler.training.scores import score_text

BAR = 20
"""Characters of the bar: all of its line fits into 80."""


class Reporter(Protocol):
    """Is told by the loop what happens, in this order; must not change the run."""

    def epoch_started(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Epoch `epoch` (from 1) of `epochs` begins; `done` of its `steps` were done before a resume."""
        ...

    def step_finished(self, done: int, loss: float) -> None:
        """`done` steps of the epoch are done, with mean loss `loss`."""
        ...

    def epoch_finished(self, record: EpochRecord, epochs: int) -> None:
        """The epoch of `record` is evaluated and saved."""
        ...

    def note(self, sentence: str) -> None:
        """Something a person should know, such as an interruption."""
        ...

    def close(self) -> None:
        """The run is over, well or not; may be called more than once."""
        ...


class QuietReporter:
    """Shows nothing."""

    def epoch_started(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Ignored."""

    def step_finished(self, done: int, loss: float) -> None:
        """Ignored."""

    def epoch_finished(self, record: EpochRecord, epochs: int) -> None:
        """Ignored."""

    def note(self, sentence: str) -> None:
        """Ignored."""

    def close(self) -> None:
        """Nothing to close."""


class Column(NamedTuple):
    """One column of the table: its heading, its width in characters, and what it says of a record.

    of_sparse: whether it says nothing where no layer is sparse; metric: the only one that it is about.
    """

    heading: str
    width: int
    text: Callable[[EpochRecord, int], str]
    of_sparse: bool = False
    metric: str | None = None

    def says(self, record: EpochRecord) -> bool:
        """Whether it is about such a record."""
        return (bool(record.kept) or not self.of_sparse) and self.metric in (None, record.metric)


COLUMNS = (
    Column("epoch", 7, lambda record, epochs: f"{record.epoch}/{epochs}"),
    Column("loss", 6, lambda record, _: f"{record.loss:{'.4f' if record.loss < 10 else '.4g'}}"),
    Column("train%", 6, lambda record, _: f"{100 * record.train_score:.2f}", metric=ACCURACY),
    Column("test%", 6, lambda record, _: f"{100 * record.test_score:.2f}", metric=ACCURACY),
    Column("test error", 10, lambda record, _: score_text(ERROR, record.test_score), metric=ERROR),
    Column("zeros%", 6, lambda record, _: f"{100 * record.sparsity:.2f}", of_sparse=True),
    Column("kept", 5, lambda record, _: short(record.kept), of_sparse=True),
    Column("changed", 13, lambda record, _: _changed(record), of_sparse=True),
    Column("examples", 8, lambda record, _: short(record.examples)),
    Column("ms/iter", 7, lambda record, _: f"{record.ms_per_iteration:.1f}"),
    Column("MiB", 6, lambda record, _: f"{record.memory_mb:.0f}"),
)
"""The table, at most 79 characters wide. kept: weights of the sparse layers; changed: how many of them the mutation
after the epoch removed and grew; examples: trained on; MiB: peak memory of the process so far."""


def short(count: int) -> str:
    """A count in at most five characters, of three digits where it has more than four: 9999, 12.3k, 1.86M."""
    if count < 10_000:
        return str(count)
    scaled, unit = (count / 1e3, "k") if count < 999_500 else (count / 1e6, "M")
    digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{digits}f}{unit}"


def _changed(record: EpochRecord) -> str:
    if not record.removed and not record.grown:
        return ""
    return f"-{short(record.removed)}/+{short(record.grown)}"


class RichReporter:
    """A row of numbers for every finished epoch, and on a terminal a bar for the running one below them.

    A file gets the rows as plain lines. console: standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._columns: list[Column] = []  # chosen, and their headings printed, with the first row

    def epoch_started(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Show the bar of the epoch."""
        self.close()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(BAR),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self._console,
            # The epoch's row takes the bar's place.
            transient=True,
            # A file gets the rows only.
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(f"epoch {epoch}/{epochs}", total=steps, completed=done, loss="")
        self._progress.start()

    def step_finished(self, done: int, loss: float) -> None:
        """Move the bar and its loss."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, loss=f"loss {loss:.4f}")

    def epoch_finished(self, record: EpochRecord, epochs: int) -> None:
        """Replace the bar by a row with the epoch's numbers."""
        self.close()
        if not self._columns:
            self._columns = [column for column in COLUMNS if column.says(record)]
            self._row([column.heading for column in self._columns], "bold")
        self._row([column.text(record, epochs) for column in self._columns])

    def _row(self, cells: list[str], style: str | None = None) -> None:
        line = " ".join(cell.rjust(column.width) for cell, column in zip(cells, self._columns, strict=True))
        self._console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def note(self, sentence: str) -> None:
        """Print the sentence as it is."""
        self.close()
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
