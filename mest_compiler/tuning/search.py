"""The search itself: MetaSchedule's evolutionary search over knobs, its XGBoost cost model, its scheduler of tasks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import islice, product, zip_longest
from pathlib import Path
from types import ModuleType

import numpy as np
import tvm
from tvm.s_tir import meta_schedule as ms

from mest_compiler.devices import Device
from mest_compiler.errors import TuningError
from mest_compiler.runtime.device_runtimes import device_runtime

from . import knobs as knob
from .cost_model import CostModel, Ranking
from .database import Log, Trial, note, repaired, standing
from .finals import Alone, LastComparison
from .log_database import LogDatabase
from .measure import EvaluatorConfig, Opener
from .tasks import Task, facts, read_facts
from .trial_runner import Builder, Enough, Knobs, Runner, TaskState, TrialRunner, key_of

A_BATCH = 8
"""Candidates that are built and measured between two looks at the cost model."""
WARM_UP = 16
"""Trials, of all tasks, from which on the cost model is asked."""
SEARCH = {
    "population_size": 64, "init_measured_ratio": 0.3, "init_min_unmeasured": 8, "max_fail_count": 10,
    "genetic_num_iters": 3, "genetic_mutate_prob": 0.85, "genetic_max_fail_count": 10, "eps_greedy": 0.1,
}  # fmt: skip
CONFIG, ALONE = EvaluatorConfig(), Alone()
INTRINSICS = "tvm.s_tir.tensor_intrin"
Progress = Callable[[int, int, str], None]
"""Called as (trials done, trials in all, what was tried last)."""


def nobody(done: int, total: int, what: str) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class Budget:
    """trials: of all tasks together, those of earlier runs among them. seconds: of this run. None: no limit."""

    trials: int | None = None
    seconds: float | None = None

    def check(self) -> None:
        """Raises TuningError for a budget that allows nothing."""
        if self.trials is not None and self.trials < 1:
            raise TuningError(f"A tuning of {self.trials} trials finds nothing: allow at least 1.")
        if self.seconds is not None and self.seconds <= 0:
            raise TuningError("A tuning of no time finds nothing: allow some minutes.")
        if self.trials is None and self.seconds is None:
            raise TuningError("A tuning needs an end: say how many trials, or how many minutes.")


@dataclass(frozen=True)
class Tuned:
    """What is known of a task after a run. Seconds are of one kernel run, None where no candidate was right; `trials`
    are all that the log has of it, `failed` of them; `reason`: why the last one of those failed."""

    task: Task
    weight: float
    default: float | None
    best: float | None
    knobs: Knobs
    trials: int
    failed: int
    reason: str = ""


def tune(
    tasks: Mapping[Task, float],
    device: Device,
    root: Path,
    budget: Budget,
    *,
    title: str = "",
    heaviest: int | None = None,
    places: Sequence[Opener | None] = (None,),
    progress: Progress = nobody,
    say: Callable[[str], None] = lambda text: None,
    seed: int = 1,
    config: EvaluatorConfig | None = None,
    last: LastComparison | None = ALONE,
) -> list[Tuned]:
    """Tunes tasks (with how often a step runs each) and writes every trial into the device's log under `root`.

    Each task's default knobs are measured first, and at the end once more beside its fastest candidates.

    title: what the tasks are of, for the log's README. heaviest: search only the tasks that take the most time with
    those. say: gets sentences about damaged lines of the log. last: how the tasks are decided at the end; None: they
    are not.

    Raises:
        TuningError: a budget that allows nothing, or no tasks. DeviceError: no device is left to measure on.
    """
    budget.check()
    if not tasks:
        raise TuningError("There is nothing to tune: no layer has a kernel with knobs.")
    folder = root / device.record_folder
    folder.mkdir(parents=True, exist_ok=True)
    end = whole = None
    if budget.seconds is not None:
        whole = time.monotonic() + budget.seconds
        end = whole - budget.seconds * (0 if last is None else last.share)
    log = repaired(folder)
    for sentence in log.damaged:
        say(sentence)
    earlier, database = _earlier(log), LogDatabase(folder, log)
    done = 0

    def counted(state: TaskState, knobs: Knobs, seconds: list[float] | None) -> None:
        nonlocal done
        done += 1
        progress(done, total, str(state.task))

    with TrialRunner(device, database, places, counted, config or CONFIG) as runner:
        states = {task: runner.state(task) for task in tasks}
        for task, state in states.items():
            _recall(state, earlier.get(_own(task, device), []))
        before = done = sum(len(s.seconds) for s in states.values())
        most = sum(size(s) for s in states.values())
        total = most if budget.trials is None else min(budget.trials, most)
        progress(done, total, "")
        try:
            if done < total:
                runner.trials((s, s.first) for s in list(states.values())[: total - done])
            searched = _heaviest(states, tasks, heaviest)
            if done < total and not _over(end):
                _search(runner, searched, tasks, device, total - done, end, seed)
            # What the search proposed again counted as a trial to it, but not here.
            rest = _in_turns([untried(s, device, seed) for s in searched])
            while done < total and not _over(end) and (some := list(islice(rest, min(A_BATCH, total - done)))):
                runner.trials(some)
            if last is not None:
                last(runner, list(states.values()), lambda what: progress(done, total, what), say, whole)
        finally:
            if done > before:
                _note(folder, device, title or f"{len(tasks)} tasks", done - before)
        return [tuned(s, tasks[task], runner) for task, s in states.items()]


def _note(folder: Path, device: Device, title: str, trials: int) -> None:
    """The README line of a run."""
    threads = f", {device.threads} threads" if device_runtime(device.kind).threaded else ""
    note(
        folder,
        f"Tuning log of {folder.name}",
        f"{date.today().isoformat()}: {title}; {trials} trials on {folder.name}{threads}, TVM {tvm.__version__}",
    )


def untried(state: TaskState, device: Device, seed: int) -> Iterator[tuple[TaskState, Knobs]]:
    """Knobs within the device's limits that were not tried when they are asked for, in random order."""
    default, names = state.task.default(device), list(state.space)
    every = list(product(*state.space.values()))
    for i in np.random.default_rng(seed).permutation(len(every)):
        knobs = dict(zip(names, every[i], strict=True))
        if key_of(knobs) not in state.seconds and state.task.allows(device, knobs, default):
            yield state, knobs


def _in_turns(each: Sequence[Iterator[tuple[TaskState, Knobs]]]) -> Iterator[tuple[TaskState, Knobs]]:
    """One of each, until there is nothing left."""
    return (one for some in zip_longest(*each) for one in some if one is not None)


def size(state: TaskState) -> int:
    """Candidates of a task's space, those that limits forbid among them."""
    count = 1
    for values in state.space.values():
        count *= len(values)
    return count


def tuned(state: TaskState, weight: float, runner: TrialRunner) -> Tuned:
    """What the runner knows of a task."""
    best = state.best
    failed = [key for key, seconds in state.seconds.items() if seconds is None]
    reasons = [runner.errors[str(state.task), key] for key in failed if (str(state.task), key) in runner.errors]
    knobs, seconds = best if best is not None else ({}, None)
    return Tuned(
        state.task, weight, state.default, seconds, knobs, len(state.seconds), len(failed),
        reasons[-1] if reasons else "",
    )  # fmt: skip


def _own(task: Task, device: Device) -> str:
    said = read_facts(facts(task, device))
    return repr((said["tvm"], said["device"], said["task"]))


def _earlier(log: Log) -> dict[str, list[Trial]]:
    """Trials that the log has, by what they hold true for."""
    found: dict[str, list[Trial]] = {}
    for place, trials in log.by_task().items():
        said = log.tasks[place]
        found.setdefault(repr((said["tvm"], said["device"], said["task"])), []).extend(trials)
    return found


def _recall(state: TaskState, trials: Sequence[Trial]) -> None:
    """What the log has of a state."""
    for trial in trials:
        if not trial.again:
            state.seconds[key_of(trial.knobs)] = None if trial.seconds is None else [trial.seconds]
    stand = standing(trials)
    if any(trial.first and trial.again for trial in stand):
        state.decide({key_of(t.knobs): t.seconds for t in stand if t.seconds is not None})
    if not (trials and trials[-1].first and trials[-1].again):
        state.final = {}


def _over(end: float | None) -> bool:
    return end is not None and time.monotonic() >= end


def _heaviest(states: Mapping[Task, TaskState], tasks: Mapping[Task, float], count: int | None) -> list[TaskState]:
    """The states with knobs that take the most time in a step, all of them where `count` is None."""

    def weight(state: TaskState) -> float:
        best = state.best
        return 0.0 if best is None else tasks[state.task] * best[1]

    found = sorted((s for s in states.values() if s.space), key=weight, reverse=True)
    return found if count is None else found[:count]


def context(state: TaskState, device: Device, name: str, seed: int) -> ms.TuneContext:
    """MetaSchedule's view of a task."""
    space = ms.space_generator.ScheduleFn(
        lambda sch: knob.sample(sch, state.space),
        sch_rules=[],
        postprocs=[knob.WithinLimits(state.task, device)],
        mutator_probs={knob.MutateKnob(): 1.0},
    )
    with _no_intrinsics():
        return ms.TuneContext(
            mod=state.module,
            target=device.target,
            space_generator=space,
            search_strategy=ms.search_strategy.EvolutionarySearch(**SEARCH),
            task_name=name,
            rand_state=seed,
            num_threads=1,
        )


@contextmanager
def _no_intrinsics() -> Iterator[None]:
    """A context of MetaSchedule loads all of TVM's tensor intrinsics, for half a minute; our spaces have none."""
    if INTRINSICS in sys.modules:
        yield
        return
    sys.modules[INTRINSICS] = ModuleType(INTRINSICS)
    try:
        yield
    finally:
        del sys.modules[INTRINSICS]


def ranking(states: Iterable[TaskState], seed: int) -> Ranking:
    """The model of some tasks, with all that is known of them so far."""
    states = list(states)
    found = Ranking(sorted({name for s in states for name in s.space}), seed)
    for s in states:
        known = [(dict(key), took and sum(took) / len(took)) for key, took in s.seconds.items() if s.has(key)]
        found.learn(s.task, known)
    return found


def _search(
    runner: TrialRunner, states: Sequence[TaskState], weights: Mapping[Task, float], device: Device, trials: int,
    end: float | None, seed: int,
) -> None:  # fmt: skip
    if not states:
        return
    named = {f"task {number}": state for number, state in enumerate(states)}
    contexts = [context(state, device, name, seed + i) for i, (name, state) in enumerate(named.items())]
    model = CostModel(ranking(states, seed), {name: s.task for name, s in named.items()}, WARM_UP)
    runner.end, runner.left = end, trials
    try:
        ms.tune.tune_tasks(
            tasks=contexts,
            task_weights=[float(weights[state.task]) for state in states],
            work_dir="",
            max_trials_global=trials,
            max_trials_per_task=trials,
            num_trials_per_iter=A_BATCH,
            builder=Builder(runner),
            runner=Runner(runner),
            database=runner.database.memory,
            cost_model=model,
            measure_callbacks=[ms.measure_callback.UpdateCostModel()],
            task_scheduler=ms.task_scheduler.GradientBased(seed=seed),
        )
    except BaseException as error:
        if not isinstance(runner.raised, Enough):
            raise runner.raised or error from None
