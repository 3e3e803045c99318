"""The last comparison of a task: its fastest candidates against the default knobs, taken in turns.

Trials are measured minutes apart, and a machine that is slow for a minute makes winners of what came before and after.
Only what beats the default side by side stands in the log; see `database.standing`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import median
from typing import Protocol

from mest_compiler.errors import TuningError

from .trial_runner import Knobs, TaskState, TrialRunner, key_of

FINALISTS = 6
GAIN = 0.99
"""Of the default's time: a candidate that needs more is no winner."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """gain: the median of the turns' ratios of an iteration (the sum of all its functions) with the default knobs to
    one with the best. ms: the median with the default knobs, and that over the gain. steps: how many were compared
    with the default one. winners: tasks with other knobs."""

    default_ms: float
    best_ms: float
    gain: float
    steps: int
    winners: int


class LastComparison(Protocol):
    """Decides which knobs of each task are the best.

    share: of a budget's time that is left for it. outcome: how much faster a whole step became, once that is known.
    """

    share: float
    outcome: Outcome | None

    def __call__(
        self, runner: TrialRunner, states: Sequence[TaskState], progress: Say, say: Say, end: float | None
    ) -> None:
        """Decides about all states that had trials since their last comparison, and maybe about others again.

        progress: called with what is done next. say: gets sentences about what could not be compared. end: of the time,
        on the monotonic clock.

        Raises:
            DeviceError: no place is left to measure on.
        """
        ...


class Alone:
    """Compares each task's kernels alone, as its trials were; each may wait its share of the time left."""

    share = 0.15
    outcome = None

    def __call__(
        self, runner: TrialRunner, states: Sequence[TaskState], progress: Say, say: Say, end: float | None
    ) -> None:
        """See `LastComparison`."""
        waiting = [state for state in states if not state.final]
        for number, state in enumerate(waiting):
            progress(f"comparing {state.task}")
            patience = inf if end is None else (end - time.monotonic()) / (len(waiting) - number)
            try:
                decide(runner, state, patience)
            except TuningError as error:
                say(str(error))


def finalists(state: TaskState, count: int = FINALISTS) -> list[Knobs]:
    """The winner of an earlier comparison and the fastest candidates so far, without the default knobs; none where
    those failed."""
    first, keys = key_of(state.first), [key for _, key in state.ranked()]
    if first not in keys:
        return []
    wanted = [key for key in dict.fromkeys((state.winner, *keys)) if key is not None and key != first]
    return [dict(key) for key in wanted if state.has(key)][:count]


def decide(runner: TrialRunner, state: TaskState, patience: float = inf) -> None:
    """Compares the finalists with the default knobs, and writes down the winners' times and at last the default's.
    patience: seconds in all that its turns may wait until nothing else slows this machine, a share for each.

    A winner's time is the default's median times the median of the ratios of their turns.

    Raises:
        DeviceError: no place is left to measure on. TuningError: a kernel that was right failed now.
    """
    wanted = finalists(state)
    if not wanted:
        return
    config = runner.config
    config = replace(config, patience_s=max(0.0, min(config.patience_s, patience / config.turns)))
    default, *others = runner.compare(state, [state.first, *wanted], config)
    ratios = [median(t / d for t, d in zip(times, default, strict=True)) for times in others]
    seconds = median(default)
    final = {key_of(knobs): seconds * ratio for knobs, ratio in zip(wanted, ratios, strict=True) if ratio < GAIN}
    runner.write_final(state, final | {key_of(state.first): seconds})
