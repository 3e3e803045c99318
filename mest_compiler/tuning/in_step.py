"""The last comparison of a step's tasks, in the step itself.

Alone, a kernel runs on plain inputs that the caches still hold; in a step it may be fused with a normalisation, and
finds what other kernels left of the caches. So knobs that win alone may lose there. Here whole steps are compiled, each
with another candidate of every task, and run in turns with the step of the default knobs, and it is their kernels'
times within the steps that count.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import median

import numpy as np
from tvm.support.popen_pool import PopenPoolExecutor

from mest_compiler.devices import Device, available_cores
from mest_compiler.kernels.geometry import ConvGeometry
from mest_compiler.kernels.indices import SparseConv
from mest_compiler.pace import Pacer
from mest_compiler.passes.tiling.plan import Pick
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.kernel_clock import KernelClock
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.schedules.choice import Choice

from .fastest import SEED, Fastest
from .finals import GAIN, Alone, Say, finalists
from .measure import begin
from .records import Records
from .tasks import Layer, Task, offered, task_of
from .workshop import Knobs, Subject, Workshop, key_of

TOGETHER = 4
"""Steps that are compared with the default one at a time: each holds a whole training state."""
MOST, UNTIMED = 24, 6
"""Candidates of a task at most, and where there is no end of time."""
AGAIN = 2
"""Candidates of a task that are compared once more: of many, the fastest is a lucky one too."""
TURNS, LAST_TURNS = 7, 15
PATIENCE_S = 3.0
"""Seconds that a turn of all steps may wait on average until nothing else slows this machine."""
COMPILE_S = 900.0
CLOSE = 1e-3
"""Of the largest logit, by which those of two steps may differ after an iteration."""

Place = tuple[str, str]  # a layer's parameter and a direction
Times = dict[Task, float]


@dataclass(frozen=True)
class Step:
    """A step whose kernels are tuned. layers: its convolutions and sparse linear layers by parameter. compile: saves
    the step with the kernels that a `Pick` decides for in a folder; it is called in another process."""

    layers: Mapping[str, Layer]
    compile: Callable[[Pick, str], None]


@dataclass(frozen=True)
class WithKnobs:
    """Picks given kernels (name and indexing, by direction and layer), and knobs by task: default ones where there are
    none."""

    kernels: Mapping[tuple[str, SparseConv | ConvGeometry], tuple[str, str]]
    knobs: Mapping[Task, Knobs] = field(default_factory=dict)

    def __call__(self, direction: str, layer: SparseConv | ConvGeometry, found: Sequence[Choice]) -> Choice:
        """See `passes.tiling.plan.Pick`."""
        kernel = self.kernels[direction, layer]
        choice = next(c for c in found if (c.kernel, c.indexing) == kernel)
        knobs = self.knobs.get(task_of(direction, choice, layer))
        return choice if knobs is None else choice.with_knobs(**knobs)


@dataclass(frozen=True)
class Outcome:
    """ms of an iteration, all its functions together, with the default knobs and with the best ones; gain: the median
    of the turns' ratios. steps: how many were compared."""

    default: float
    best: float
    gain: float
    steps: int


class InStep:
    """See `LastComparison`; tasks that the step has no kernel of are compared alone. `outcome` holds how much faster
    the step became, None where there was nothing to compare."""

    share = 0.5

    def __init__(self, step: Step, device: Device, root: Path) -> None:
        """root: of the tuning logs, by which the kernels of a layer are chosen."""
        self._step, self._device, self._root = step, device, root
        self.outcome: Outcome | None = None

    def __call__(
        self, workshop: Workshop, subjects: Sequence[Subject], progress: Say, say: Say, end: float | None
    ) -> None:
        """See `LastComparison`."""
        kernels, tasks = self._kernels()
        within = [s for s in subjects if s.task in set(tasks.values())]
        if any(not s.final and finalists(s) for s in within):
            with _Contest(self._step, self._device, kernels, tasks) as contest:
                self.outcome = _decided(contest, workshop, within, progress, say, end)
        Alone()(workshop, [s for s in subjects if s not in within], progress, say, end)

    def _kernels(self) -> tuple[dict[tuple[str, SparseConv | ConvGeometry], tuple[str, str]], dict[Place, Task]]:
        """The kernel of each direction and layer, and the task of each direction and parameter."""
        pick = Fastest(self._device, records=Records(self._device, self._root))
        kernels, tasks = {}, {}
        for param, layer in self._step.layers.items():
            what = layer.sparse or layer.geometry
            for direction in layer.choices:
                choice = pick(direction, what, offered(direction, what, self._device))
                kernels[direction, what] = choice.kernel, choice.indexing
                tasks[param, direction] = task_of(direction, choice, what)
        return kernels, tasks


class Entrant:
    """A compiled step that takes part."""

    def __init__(self, artifact: Artifact, tasks: Mapping[Place, Task]) -> None:
        self._trainer, rng = Trainer(artifact), np.random.default_rng(SEED)
        m = artifact.manifest
        x = rng.standard_normal((m["batch"], *m["input_shape"]), np.float32)
        y = rng.integers(0, m["classes"], m["batch"])
        _, self.logits = self._trainer.step(x, y, 0.0)  # weights stay as they are
        self._clock = KernelClock(self._trainer)
        self._tasks = {m["layers"][p]["kernels"][d]["function"]: task for (p, d), task in tasks.items()}
        self.calls: dict[Task, int] = {}

    def turn(self) -> tuple[Times, float]:
        """ms of each task's kernels in an iteration, and of all functions; another iteration goes before it."""
        self._clock.iteration()
        spent, times, self.calls = self._clock.iteration(), {}, {}
        for name, task in self._tasks.items():
            times[task] = times.get(task, 0.0) + spent[name].ms
            self.calls[task] = self.calls.get(task, 0) + spent[name].calls
        return times, sum(one.ms for one in spent.values())


class _Contest:
    """Compiles steps, and runs them in turns."""

    def __init__(
        self,
        step: Step,
        device: Device,
        kernels: Mapping[tuple[str, SparseConv | ConvGeometry], tuple[str, str]],
        tasks: Mapping[Place, Task],
    ) -> None:
        self._step, self._kernels, self._tasks = step, kernels, tasks
        self._folder = tempfile.TemporaryDirectory(prefix="mest-steps-")
        options = {"initializer": begin, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        self._pool = PopenPoolExecutor(min(available_cores(), TOGETHER), COMPILE_S, **options)
        self._pacer = Pacer()
        self.compiled = 0

    def __enter__(self) -> _Contest:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)
        self._folder.cleanup()

    def entrants(self, wanted: Sequence[Mapping[Task, Knobs]], say: Say) -> Iterator[Entrant | None]:
        """A step for each, None where it could not be compiled."""
        jobs: list[tuple[Path, Future]] = []
        for knobs in wanted:
            path = Path(self._folder.name, str(self.compiled))
            self.compiled += 1
            jobs.append((path, self._pool.submit(self._step.compile, WithKnobs(self._kernels, knobs), str(path))))
        try:
            for path, job in jobs:
                try:
                    job.result()
                except Exception as error:  # whatever a generator or a compiler raises, or a time-out
                    say(f"A step with other knobs was not compiled, and its candidates were not compared: {error}")
                    yield None
                else:
                    yield Entrant(Artifact.load(path), self._tasks)
        finally:
            for path, job in jobs:
                job.cancel()  # after Ctrl-C
                shutil.rmtree(path, ignore_errors=True)

    def turns(self, entrants: Sequence[Entrant], count: int) -> list[list[tuple[Times, float]]]:
        """What each gives, turn by turn; every other turn in reverse."""
        found: list[list[tuple[Times, float]]] = [[] for _ in entrants]
        for number in range(count):
            order = list(range(len(entrants)))[:: -1 if number % 2 else 1]
            turn = self._pacer.takes(lambda order=order: {i: entrants[i].turn() for i in order}, PATIENCE_S)[-1]
            for i, times in turn.items():
                found[i].append(times)
        return found


def _ratios(times: Sequence[tuple[Times, float]], default: Sequence[tuple[Times, float]]) -> Times:
    """Median of the turns' ratios, of each task."""
    return {
        task: median(one[task] / other[task] for (one, _), (other, _) in zip(times, default, strict=True))
        for task in default[0][0]
    }


def _decided(
    contest: _Contest, workshop: Workshop, subjects: Sequence[Subject], progress: Say, say: Say, end: float | None
) -> Outcome | None:
    began, by_task = time.monotonic(), {s.task: s for s in subjects}
    candidates = {s.task: _candidates(s, MOST if end is not None else UNTIMED) for s in subjects}
    progress("compiling the step with default knobs")
    (default,) = contest.entrants([{}], say)
    if default is None:
        return None
    a_step = time.monotonic() - began
    # Compiled are then two rounds of steps: those that are compared once more, and the one of the winners.
    stop = inf if end is None else end - 3 * a_step
    ranks: dict[Task, list[tuple[float, Knobs]]] = {task: [] for task in candidates}
    most = max(map(len, candidates.values()))
    for start in range(0, most, TOGETHER):
        if start and time.monotonic() + 2 * a_step > stop:
            break
        numbers = range(start, min(start + TOGETHER, most))
        progress(f"comparing steps with candidates {start + 1} to {numbers[-1] + 1} of each task")
        wanted = [{t: some[n] for t, some in candidates.items() if n < len(some)} for n in numbers]
        for knobs, ratios in _compared(contest, default, wanted, TURNS, say):
            for task, some in knobs.items():
                ranks[task].append((ratios[task], some))
    progress("comparing steps with the fastest candidates of each task")
    best = {t: [some for _, some in sorted(found, key=lambda one: one[0])[:AGAIN]] for t, found in ranks.items()}
    wanted = [{t: some[n] for t, some in best.items() if n < len(some)} for n in range(AGAIN)]
    again: dict[Task, list[tuple[float, Knobs]]] = {task: [] for task in candidates}
    for knobs, ratios in _compared(contest, default, wanted, LAST_TURNS, say):
        for task, some in knobs.items():
            again[task].append((ratios[task], some))
    chosen = {}
    for task, found in again.items():
        ratio, knobs = min(found, key=lambda one: one[0], default=(inf, None))
        if ratio < GAIN:
            chosen[task] = knobs
    progress("comparing the step with the winners")
    return _written(contest, workshop, by_task, default, chosen, say)


def _candidates(subject: Subject, count: int) -> list[Knobs]:
    """The winner of an earlier comparison, then the fastest alone."""
    first, found = key_of(subject.first), finalists(subject, count)
    if found and subject.final and (key := min(subject.final, key=subject.final.__getitem__)) != first:
        return [dict(key), *(knobs for knobs in found if key_of(knobs) != key)][:count]
    return found


def _compared(
    contest: _Contest, default: Entrant, wanted: Sequence[Mapping[Task, Knobs]], count: int, say: Say
) -> list[tuple[Mapping[Task, Knobs], Times]]:
    """The ratios to the default step of those steps that could be compared."""
    running = []
    for knobs, entrant in zip(wanted, contest.entrants(wanted, say), strict=True):
        if entrant is None or not knobs:
            continue
        if not _agree(entrant, default):
            say("A step with other knobs computes something else, and its candidates were not compared.")
            continue
        running.append((knobs, entrant))
    if not running:
        return []
    first, *others = contest.turns([default, *(entrant for _, entrant in running)], count)
    return [(knobs, _ratios(times, first)) for (knobs, _), times in zip(running, others, strict=True)]


def _agree(one: Entrant, other: Entrant) -> bool:
    return float(np.abs(one.logits - other.logits).max()) <= CLOSE * float(np.abs(other.logits).max())


def _written(
    contest: _Contest,
    workshop: Workshop,
    subjects: Mapping[Task, Subject],
    default: Entrant,
    chosen: Mapping[Task, Knobs],
    say: Say,
) -> Outcome | None:
    """Compares the step with all chosen knobs, and writes down those that still win and the default ones' times."""
    (best,) = contest.entrants([chosen], say)
    if best is None or not _agree(best, default):
        return None
    first, last = contest.turns([default, best], LAST_TURNS)
    ratios = _ratios(last, first)
    for task, subject in subjects.items():
        if not finalists(subject):
            continue
        seconds = median(times[task] for times, _ in first) / default.calls[task] / 1e3
        won = {key_of(chosen[task]): seconds * ratios[task]} if task in chosen and ratios[task] < 1 else {}
        workshop.write_final(subject, won | {key_of(subject.first): seconds})
    totals = [(one, other) for (_, one), (_, other) in zip(first, last, strict=True)]
    return Outcome(
        median(one for one, _ in totals),
        median(other for _, other in totals),
        median(one / other for one, other in totals),
        contest.compiled,
    )
