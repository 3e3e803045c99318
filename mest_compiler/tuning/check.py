"""How good the search is: the cost model's ranks of candidates it has not seen, and random search beside it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tvm.s_tir import meta_schedule as ms

from mest_compiler.devices import Device

from . import search
from .curves import curve
from .database import read_log
from .measure import EvaluatorConfig, Opener
from .search import Budget, Progress, nobody, ranking, tune, untried
from .tasks import Task
from .trial_runner import Knobs, TaskState, TrialRunner, key_of


@dataclass(frozen=True)
class Checked:
    """Of one task. correlation: Spearman's, of predicted and measured times of `held_out` random candidates that the
    model, taught by the search's trials of all tasks, has not seen; NaN where those are fewer than three. Seconds of
    the best that search and random search found, with their curves, a value a trial."""

    title: str
    correlation: float
    held_out: int
    default: float | None
    search: float | None
    random: float | None
    search_curve: Sequence[float | None]
    random_curve: Sequence[float | None]


def check(
    tasks: Mapping[Task, float],
    device: Device,
    trials: int,
    *,
    tasks_at_most: int = 3,
    places: Sequence[Opener | None] = (None,),
    progress: Progress = nobody,
    seed: int = 1,
    config: EvaluatorConfig | None = None,
) -> list[Checked]:
    """Checks the heaviest tasks, each with so many trials of the search and as many of random search, in a log that is
    thrown away."""
    config = config or search.CONFIG
    with tempfile.TemporaryDirectory(prefix="mest-check-") as place:
        first = tune(tasks, device, Path(place, "first"), Budget(len(tasks)), places=places, config=config, last=None)
        chosen = sorted((one for one in first if one.default is not None), key=lambda one: -one.weight * one.default)[
            :tasks_at_most
        ]
        rows, total = [], 2 * trials * len(chosen)
        with TrialRunner(device, ms.database.MemoryDatabase(), places, config=config) as random:
            searched: list[TaskState] = []
            for number, one in enumerate(chosen):
                root, before = Path(place, str(number)), 2 * trials * number
                tune(
                    {one.task: 1.0}, device, root, Budget(trials), places=places, seed=seed, config=config, last=None,
                    progress=lambda done, _, what, before=before: progress(before + done, total, what),
                )  # fmt: skip
                state = random.state(one.task)
                wanted = [knobs for _, knobs in itertools.islice(untried(state, device, seed), trials)]
                for i, knobs in enumerate(wanted, 1):
                    random.trials([(state, knobs)])
                    progress(before + trials + i, total, f"random {one.task}")
                log = read_log(root / device.record_folder)
                found = curve(str(one.task), [trial for _, trial in log.trials])
                known = TaskState(one.task, state.module, state.space)
                known.seconds |= {key_of(t.knobs): None if t.seconds is None else [t.seconds] for _, t in log.trials}
                searched.append(known)
                rows.append((state, found, wanted))
            model = ranking(searched, seed)
            return [_checked(model, *row, known) for row, known in zip(rows, searched, strict=True)]


def _checked(model, state: TaskState, found, wanted: Sequence[Knobs], known: TaskState) -> Checked:
    times = [state.seconds[key_of(knobs)] for knobs in wanted]
    held_out = [
        (knobs, sum(s) / len(s)) for knobs, s in zip(wanted, times, strict=True)
        if s is not None and key_of(knobs) not in known.seconds
    ]  # fmt: skip
    scores = model.scores(state.task, [knobs for knobs, _ in held_out])
    correlation = spearman(scores, [-seconds for _, seconds in held_out]) if len(held_out) > 2 else float("nan")
    bests = list(itertools.accumulate((sum(s) / len(s) if s else float("inf") for s in times), min))
    curve_of_random = [None if b == float("inf") else b for b in bests]
    return Checked(
        found.title, correlation, len(held_out), found.default, found.best,
        curve_of_random[-1] if curve_of_random else None, found.bests, curve_of_random,
    )  # fmt: skip


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation; equal numbers share the mean of their ranks. NaN where one side has no ranks."""
    left, right = (_ranks(np.asarray(values, float)) for values in (a, b))
    if not left.std() or not right.std():
        return float("nan")
    return float(np.corrcoef(left, right)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
