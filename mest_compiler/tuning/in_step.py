"""The last comparison of a step's tasks, in the step itself.

Alone, a kernel runs on plain inputs that the caches still hold; in a step it may be fused with a normalisation, and
finds what other kernels left of the caches. So knobs that win alone may lose there. Here whole steps are compiled, each
with another candidate of every task, and run in turns with the step of the default knobs, and it is their kernels'
times within the steps that count.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from tvm.support.popen_pool import PopenPoolExecutor

from mest_compiler.devices import Device, available_cores
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.pace import Pacer
from mest_compiler.passes.tiling.plan import Pick
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.kernel_clock import KernelClock
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.schedules.choice import Choice

from .fastest import SEED, Fastest
from .finals import Alone, Outcome, Say, finalists
from .records import Records
from .tasks import Layer, Task, offered, task_of
from .trial_runner import Knobs, TaskState, TrialRunner, key_of, sentence

TOGETHER = 4
"""Steps at most that are compared with the default one at a time: each holds a whole training state."""
SHARE_OF_MEMORY = 0.5
"""Of what is free, that these states may take."""
MOST, UNTIMED = 24, 6
"""Candidates of a task at most, and where there is no end of time."""
AGAIN = 2
"""Candidates of a task that are compared once more: of many, the fastest is a lucky one too."""
GAIN = 0.97
"""Of the default's time in the step, which is known to some per cent: a candidate that needs more is no winner."""
LIVES, LAST_LIVES, TURNS = 3, 6, 3
"""How often steps are made anew in a comparison, at last, and turns of each life: where its memory lies makes a step
some per cent faster or slower for life."""
PATIENCE_S = 3.0
"""Seconds that a turn of all steps may wait on average until nothing else slows this machine."""
COMPILE_S = 900.0
CLOSE, CLOSE_GRADIENTS = 1e-3, 0.05
"""Of the norm of a step's logits, and of a parameter's gradient, by which another step's may differ. Rounding moves
some pre-activations across ReLU's corner, and gradients by far more than logits: some thousandths of their norm."""
LEAST = 0.01
"""Of the largest gradient's norm, for the norm of one that is all but zero (a bias before batch norm has no other)."""

LayerDirection = tuple[str, str]  # a layer's parameter and a direction
Kernels = Mapping[tuple[str, LayerProblem], tuple[str, str]]
Times = dict[Task, float]
Turns = list[tuple[Times, float]]  # of a step: ms of a call of each task's kernel, and of all its functions
Ranks = dict[Task, list[tuple[float, Knobs]]]  # candidates with what they take, of the default's time
Compared = tuple[Mapping[Task, Knobs], Times, Turns]  # a step's knobs, ratios to the default step, and turns


@dataclass(frozen=True)
class Step:
    """A step whose kernels are tuned. layers: its convolutions and sparse linear layers by parameter. compile: saves
    the step with the kernels that a `Pick` decides for in a folder; it is called in another process."""

    layers: Mapping[str, Layer]
    compile: Callable[[Pick, str], None]


@dataclass(frozen=True)
class WithKnobs:
    """Picks given kernels (name and family, by direction and layer), and knobs by task: default ones where there are
    none."""

    kernels: Kernels
    knobs: Mapping[Task, Knobs]

    def __call__(self, direction: str, layer: LayerProblem, found: Sequence[Choice]) -> Choice:
        """See `passes.tiling.plan.Pick`."""
        kernel = self.kernels[direction, layer]
        choice = next(c for c in found if (c.kernel, c.family) == kernel)
        knobs = self.knobs.get(task_of(direction, choice, layer))
        return choice if knobs is None else choice.with_knobs(**knobs)


class InStep:
    """See `LastComparison`; what the step says nothing of is compared alone: kernels that it does not have, or that
    layers of different capacity share.
    """

    share = 0.5

    def __init__(self, step: Step, device: Device, root: Path) -> None:
        """root: of the tuning logs, by which the kernels of a layer are chosen."""
        self._step, self._device, self._root = step, device, root
        self.outcome: Outcome | None = None

    def __call__(
        self, runner: TrialRunner, states: Sequence[TaskState], progress: Say, say: Say, end: float | None
    ) -> None:
        """See `LastComparison`."""
        kernels, tasks = self._kernels(progress)
        within = [s for s in states if s.task in set(tasks.values()) and finalists(s)]
        if not all(s.final for s in within):
            with _Contest(self._step, kernels, tasks, say) as contest:
                self.outcome = _Comparison(contest, runner, within, progress, end).outcome()
        Alone()(runner, [s for s in states if not s.final], progress, say, end)

    def _kernels(self, progress: Say) -> tuple[Kernels, dict[LayerDirection, Task]]:
        """The kernel of each direction and layer, and the task of each direction and parameter."""
        pick = Fastest(self._device, lambda what: progress(f"measuring {what}"), Records(self._device, self._root))
        kernels, tasks = {}, {}
        for param, layer in self._step.layers.items():
            what = layer.problem
            for direction in layer.choices:
                choice = pick(direction, what, offered(direction, what, self._device))
                kernels[direction, what] = choice.kernel, choice.family
                tasks[param, direction] = task_of(direction, choice, what)
        return kernels, tasks


class Entrant:
    """A compiled step that takes part. logits, gradients: of its first iteration; weights stay as they are."""

    def __init__(self, artifact: Artifact, tasks: Mapping[LayerDirection, Task]) -> None:
        self._trainer, rng = Trainer(artifact), np.random.default_rng(SEED)
        m = artifact.manifest
        x = rng.standard_normal((m["batch"], *m["input_shape"]), np.float32)
        y = rng.integers(0, m["classes"], m["batch"])
        _, self.logits = self._trainer.step(x, y, 0.0)
        self.gradients = self._trainer.slots()["momentum"]  # with their weight decay
        self._clock = KernelClock(self._trainer)
        self._functions = own_functions(m["layers"], tasks)

    def turn(self) -> tuple[Times, float]:
        """ms of a call of each task's kernel in an iteration, the mean of its calls, and ms of all functions; another
        iteration goes before it."""
        self._clock.iteration()
        spent = self._clock.iteration()
        times = {
            task: sum(spent[name].ms for name in names) / sum(spent[name].calls for name in names)
            for task, names in self._functions.items()
        }
        return times, sum(one.ms for one in spent.values())


def own_functions(layers: Mapping[str, Any], tasks: Mapping[LayerDirection, Task]) -> dict[Task, set[str]]:
    """The functions of a step (by the `layers` of its manifest) that compute each task and no other one. Layers that
    differ in capacity alone share functions, and their tasks are left out."""
    names: dict[Task, set[str]] = defaultdict(set)
    users: dict[str, set[Task]] = defaultdict(set)
    for (param, direction), task in tasks.items():
        name = layers[param]["kernels"][direction]["function"]
        names[task].add(name)
        users[name].add(task)
    return {task: some for task, some in names.items() if all(len(users[name]) == 1 for name in some)}


def _begin() -> None:
    """A compiling worker's first errand: Ctrl-C ends it at once, whatever it is doing."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class _Contest:
    """Compiles steps, and runs them in turns. compiled: how many were."""

    def __init__(self, step: Step, kernels: Kernels, tasks: Mapping[LayerDirection, Task], say: Say) -> None:
        self._step, self._kernels, self._tasks, self.say = step, kernels, tasks, say
        self._folder = tempfile.TemporaryDirectory(prefix="mest-steps-")
        options = {"initializer": _begin, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        self.workers = min(available_cores(), TOGETHER)
        self._pool = PopenPoolExecutor(self.workers, COMPILE_S, **options)
        self._pacer = Pacer()
        self.compiled = 0

    def __enter__(self) -> _Contest:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)
        self._folder.cleanup()

    def artifacts(self, wanted: Sequence[Mapping[Task, Knobs]]) -> list[Artifact | None]:
        """A step for each, None where it cannot be compiled."""
        jobs: list[tuple[Path, Future]] = []
        for knobs in wanted:
            path = Path(self._folder.name, str(len(jobs)))
            jobs.append((path, self._pool.submit(self._step.compile, WithKnobs(self._kernels, knobs), str(path))))
        try:
            return [self._ended(path, job, knobs) for (path, job), knobs in zip(jobs, wanted, strict=True)]
        finally:
            for path, job in jobs:
                job.cancel()  # after Ctrl-C
                shutil.rmtree(path, ignore_errors=True)

    def _ended(self, path: Path, job: Future, knobs: Mapping[Task, Knobs]) -> Artifact | None:
        try:
            job.result()
            artifact = Artifact.load(path)
        except Exception as error:  # whatever a generator or a compiler raises, or a time-out
            which = "other knobs" if knobs else "the default knobs"
            self.say(f"A step with {which} could not be compiled: {sentence(error)}")
            return None
        self.compiled += 1
        return artifact

    def compare(self, artifacts: Sequence[Artifact], lives: int) -> list[Turns]:
        """What each gives, turn by turn; nothing of one that computes something else than the first. Every other turn,
        and every other life, in reverse."""
        found: list[Turns] = [[] for _ in artifacts]
        running = list(range(len(artifacts)))
        for life in range(lives):
            entrants = {i: Entrant(artifacts[i], self._tasks) for i in running[:: -1 if life % 2 else 1]}
            if wrong := [i for i in running if not _agree(entrants[i], entrants[0])]:
                self.say(f"{len(wrong)} steps with other knobs compute something else, and were not compared.")
                running = [i for i in running if i not in wrong]
            for number in range(TURNS):
                order = running[:: -1 if number % 2 else 1]
                takes = self._pacer.takes(lambda e=entrants, o=order: {i: e[i].turn() for i in o}, PATIENCE_S)
                for i, times in takes[-1].items():
                    found[i].append(times)
            del entrants  # before the next ones are made
        return [some if i in running else [] for i, some in enumerate(found)]


class _Comparison:
    """Of the candidates of some states, with all steps that it takes."""

    def __init__(
        self, contest: _Contest, runner: TrialRunner, states: Sequence[TaskState], progress: Say, end: float | None
    ) -> None:
        self._contest, self._runner, self._progress = contest, runner, progress
        self._subjects = {s.task: s for s in states}
        self._end = inf if end is None else end
        self._most = UNTIMED if end is None else MOST
        self._compile_s = self._life_s = 0.0  # what compiling a round of steps took, and a life of one step

    def outcome(self) -> Outcome | None:
        """Compares, and writes down what won."""
        self._progress("compiling the step with default knobs")
        (self._default,) = self._contest.artifacts([{}])
        if self._default is None:
            return None
        best = {task: [knobs for _, knobs in found[:AGAIN]] for task, found in self._rounds().items()}
        self._progress("comparing steps with the fastest candidates of each task once more")
        default, found = self._compared(_nth(best, range(AGAIN)), LAST_LIVES)
        firsts = {task: again[0] for task, again in _ranked(found).items()}
        chosen = {task: knobs for task, (ratio, knobs) in firsts.items() if ratio < GAIN}
        if not chosen:
            return self._written(default, default, {}) if found else None
        self._progress("comparing the step with the winners")
        default, found = self._compared([chosen], LAST_LIVES)
        return self._written(default, found[0][2], chosen) if found else None

    def _rounds(self) -> Ranks:
        """All candidates there is time for."""
        candidates = {task: finalists(s, self._most) for task, s in self._subjects.items()}
        most, together, compared = max(map(len, candidates.values())), self._together(), []
        for start in range(0, most, together):
            if start and not self._time_for(together):
                break
            numbers = range(start, min(start + together, most))
            self._progress(f"comparing steps with candidates {start + 1} to {numbers[-1] + 1} of each task")
            compared += self._compared(_nth(candidates, numbers), LIVES)[1]
        return _ranked(compared)

    def _together(self) -> int:
        """Steps that fit the memory beside the default one."""
        free = psutil.virtual_memory().available
        return max(1, min(TOGETHER, int(SHARE_OF_MEMORY * free / self._default.manifest["memory"]["planned_peak"])))

    def _time_for(self, together: int) -> bool:
        """Whether another round leaves time for the last two."""
        lives = LIVES * (together + 1) + LAST_LIVES * (AGAIN + 1) + LAST_LIVES * 2
        compiling = self._compile_s * (-(-together // self._contest.workers) + 2)
        return time.monotonic() + compiling + self._life_s * lives < self._end

    def _compared(self, wanted: Sequence[Mapping[Task, Knobs]], lives: int) -> tuple[Turns, list[Compared]]:
        """The turns of the default step, and the steps that could be compared with it."""
        wanted, began = [knobs for knobs in wanted if knobs], time.monotonic()
        made = self._contest.artifacts(wanted)
        running = [(knobs, one) for knobs, one in zip(wanted, made, strict=True) if one is not None]
        compiled = time.monotonic()
        if not running:
            return [], []
        first, *others = self._contest.compare([self._default, *(one for _, one in running)], lives)
        self._compile_s = (compiled - began) / -(-len(wanted) // self._contest.workers)
        self._life_s = (time.monotonic() - compiled) / lives / (len(running) + 1)
        return first, [
            (knobs, _ratios(times, first), times) for (knobs, _), times in zip(running, others, strict=True) if times
        ]

    def _written(self, first: Turns, last: Turns, chosen: Mapping[Task, Knobs]) -> Outcome:
        """Writes down the chosen knobs that win once more, and the default ones' times."""
        ratios, winners = _ratios(last, first), 0
        for task, state in self._subjects.items():
            if task not in ratios:
                continue
            seconds = median(times[task] for times, _ in first) / 1e3
            won = {key_of(chosen[task]): seconds * ratios[task]} if task in chosen and ratios[task] < GAIN else {}
            winners += len(won)
            self._runner.write_final(state, won | {key_of(state.first): seconds})
        default_ms = median(ms for _, ms in first)
        gain = median(one / other for (_, one), (_, other) in zip(first, last, strict=True))
        return Outcome(default_ms, default_ms / gain, gain, self._contest.compiled - 1, winners)


def _nth(candidates: Mapping[Task, Sequence[Knobs]], numbers: Sequence[int]) -> list[dict[Task, Knobs]]:
    """For each number n the nth candidate of each task that has so many."""
    return [{task: some[n] for task, some in candidates.items() if n < len(some)} for n in numbers]


def _ranked(found: Sequence[Compared]) -> Ranks:
    """Each task's knobs, those with the smallest ratio first."""
    ranks: Ranks = defaultdict(list)
    for knobs, ratios, _ in found:
        for task, some in knobs.items():
            if task in ratios:
                ranks[task].append((ratios[task], some))
    return {task: sorted(some, key=lambda one: one[0]) for task, some in ranks.items()}


def _ratios(times: Turns, default: Turns) -> Times:
    """Median of the turns' ratios, of each task that both steps tell apart."""
    return {
        task: median(one[task] / other[task] for (one, _), (other, _) in zip(times, default, strict=True))
        for task in default[0][0]
        if task in times[0][0]
    }


def _agree(one: Entrant, other: Entrant) -> bool:
    norms = {name: np.linalg.norm(gradient) for name, gradient in other.gradients.items()}
    least = LEAST * max(norms.values(), default=0.0)
    return bool(
        np.linalg.norm(one.logits - other.logits) <= CLOSE * np.linalg.norm(other.logits)
        and all(
            np.linalg.norm(one.gradients[name] - gradient) <= CLOSE_GRADIENTS * max(norms[name], least)
            for name, gradient in other.gradients.items()
        )
    )
