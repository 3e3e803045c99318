"""What a person sees of a run while it goes: a bar with the falling loss and a line an epoch, or nothing."""

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mest_compiler.training.records import EpochRecord


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


class RichReporter:
    """A bar for the running epoch and a line for each finished one, on standard error by default."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def epoch_started(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Show the bar of the epoch."""
        self.close()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self._console,
            # The epoch's line takes the bar's place.
            transient=True,
            # A file gets the lines only.
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(f"epoch {epoch}/{epochs}", total=steps, completed=done, loss="")
        self._progress.start()

    def step_finished(self, done: int, loss: float) -> None:
        """Move the bar and its loss."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, loss=f"loss {loss:.4f}")

    def epoch_finished(self, record: EpochRecord, epochs: int) -> None:
        """Replace the bar by a line with the epoch's numbers."""
        self.close()
        self._console.print(
            f"epoch {record.epoch}/{epochs}  loss {record.loss:.4f}  train {record.train_accuracy:.2%}  "
            f"test {record.test_accuracy:.2%}  lr {record.lr:.3g}  {record.ms_per_iteration:.1f} "
            "ms/iteration  "
            f"{record.seconds:.1f} s",
            highlight=False,
            soft_wrap=True,
        )

    def note(self, sentence: str) -> None:
        """Print the sentence as it is."""
        self.close()
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
