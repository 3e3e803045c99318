"""Where candidates are built and measured: worker processes behind MetaSchedule's builder and runner.

Every trial is written to the database the moment it ends, whatever becomes of its batch; one that was measured before
is not measured again.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms
from tvm.support.popen_pool import PopenPoolExecutor

from mest_compiler.devices import Device, available_cores
from mest_compiler.errors import DeviceError, DeviceLostError, TuningError

from . import knobs as knob
from .definitions import workload
from .log_database import LogDatabase
from .measure import EvaluatorConfig, Opener, begin, build, compare, measure
from .tasks import FACTS, Task

FAILED = [1e10]
"""What MetaSchedule writes down for a candidate that failed."""
BUILD_S, RUN_S = 120.0, 120.0
"""Seconds that building a candidate and measuring one may take; the first of a task makes its arguments too."""
USES = 200
"""Candidates after which a builder's process is exchanged: TVM's builders leak memory."""
KNOWN = "known:"

Knobs = Mapping[str, int]
Key = tuple[tuple[str, int], ...]


class Enough(Exception):
    """MetaSchedule is to build more, and the time or the trials are over; all that was measured is written down."""


@dataclass(eq=False)
class TaskState:
    """A task in the runner. seconds: of each candidate that was tried, None where it failed. final: of the default
    knobs and those that beat them in the last comparison; empty: there was none, or a trial came after it. winner: the
    best knobs of the last comparison there was, None where those were the default ones."""

    task: Task
    module: tvm.IRModule
    space: dict[str, list[int]]
    seconds: dict[Key, list[float] | None] = field(default_factory=dict)
    final: dict[Key, float] = field(default_factory=dict)
    winner: Key | None = None

    @property
    def first(self) -> dict[str, int]:
        """The default knobs."""
        return {name: values[0] for name, values in self.space.items()}

    @property
    def best(self) -> tuple[Knobs, float] | None:
        """The fastest knobs that were measured, and their mean time; after a last comparison, by that."""
        if self.final:
            key = min(self.final, key=self.final.__getitem__)
            return dict(key), self.final[key]
        done = self.ranked()
        return (dict(done[0][1]), done[0][0]) if done else None

    def decide(self, final: Mapping[Key, float]) -> None:
        """What a last comparison gave."""
        self.final, fastest = dict(final), min(final, key=final.__getitem__)
        self.winner = None if fastest == key_of(self.first) else fastest

    def has(self, key: Key) -> bool:
        """Whether the space has these knobs: those of an older log may be others."""
        return set(dict(key)) == set(self.space) and all(value in self.space[name] for name, value in key)

    @property
    def default(self) -> float | None:
        """Mean time of the default knobs; after a last comparison, by that."""
        first = key_of(self.first)
        return self.final.get(first) or next((seconds for seconds, key in self.ranked() if key == first), None)

    def ranked(self) -> list[tuple[float, Key]]:
        """(mean time, knobs) of all right trials of the search, the fastest first."""
        return sorted((sum(s) / len(s), key) for key, s in self.seconds.items() if s is not None)


def key_of(knobs: Knobs) -> Key:
    """Knobs as a key."""
    return tuple(sorted(knobs.items()))


class TrialRunner:
    """Builders, a measuring process for each of `places`, and the trials so far.

    Args:
        database: where trials are written.
        places: what opens a place, called in the process that measures there; None: this machine.
        on_trial: called with a state, knobs and seconds (None: it failed) after each trial.
    """

    def __init__(
        self,
        device: Device,
        database: ms.database.Database | LogDatabase,
        places: Sequence[Opener | None] = (None,),
        on_trial: Callable[[TaskState, Knobs, list[float] | None], None] = lambda *_: None,
        config: EvaluatorConfig | None = None,
    ) -> None:
        self.device, self.database, self.places, self.config = device, database, places, config or EvaluatorConfig()
        self.on_trial, self.states, self.errors = on_trial, {}, {}
        self._folder = tempfile.TemporaryDirectory(prefix="mest-tune-")
        self._built: dict[str, tuple[TaskState, Knobs]] = {}
        self._lock = threading.Lock()
        self._lost: dict[int, str] = {}
        self._last_words = ""
        self._retried: set[str] = set()
        self.raised: BaseException | None = None
        # What MetaSchedule may still use: time until then, on the monotonic clock, and trials.
        self.end: float | None = None
        self.left = 0
        options = {"initializer": begin, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        self._builders = PopenPoolExecutor(available_cores(), BUILD_S, maximum_process_uses=USES, **options)
        run_s = RUN_S + self.config.rounds * self.config.pause_s
        self._runners = [PopenPoolExecutor(1, run_s, **options) for _ in places]

    def __enter__(self) -> TrialRunner:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._builders, *self._runners):
            pool.shutdown(wait=True)
        self._folder.cleanup()

    def state(self, task: Task) -> TaskState:
        """The task, known to the database from now on."""
        module = workload(task, self.device)
        self.database.commit_workload(module)
        found = TaskState(task, module, task.space(self.device))
        self.states[str(module["main"].attrs[FACTS])] = found
        return found

    def trials(self, wanted: Iterable[tuple[TaskState, Knobs]]) -> None:
        """Builds and measures candidates that were not tried before."""
        new = [(s, dict(k)) for s, k in wanted if key_of(k) not in s.seconds]
        paths = [path for path in self.build(new) if path is not None]
        self.run(paths)

    def build(self, wanted: Sequence[tuple[TaskState, Knobs]]) -> list[str | None]:
        """A library's path for each; None where there is none, which is a trial that failed."""
        jobs: list[tuple[str, Future]] = []
        for state, knobs in wanted:
            path = str(Path(self._folder.name, f"{len(self._built)}.so"))
            self._built[path] = (state, knobs)
            jobs.append((path, self._builders.submit(build, state.task, self.device, knobs, path)))
        try:
            return [path if self._succeeded(path, job) else None for path, job in jobs]
        finally:
            for _, job in jobs:
                job.cancel()  # after Ctrl-C

    def _succeeded(self, path: str, job: Future) -> bool:
        try:
            job.result()
        except Exception as error:  # whatever a generator or a compiler raises, or a time-out
            self._ended(path, None, error)
            return False
        return True

    def run(self, paths: Sequence[str]) -> list[list[float] | None]:
        """Seconds of each built candidate, None where it failed; on all places at once.

        Raises:
            DeviceError: no place is left: those that are lost get no more candidates. OSError: the log is not writable.
        """
        waiting, refusals = deque(paths), []
        alive = [number for number in range(len(self._runners)) if number not in self._lost]
        if len(alive) == 1:
            self._serve(alive[0], waiting)  # in this thread, which Ctrl-C reaches
        else:

            def serve(number: int) -> None:
                try:
                    self._serve(number, waiting)
                except OSError as error:  # which would end its thread alone
                    refusals.append(error)

            threads = [threading.Thread(target=serve, args=(number,), daemon=True) for number in alive]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if refusals:
            raise refusals[0]
        if waiting:
            raise DeviceError(
                f"No device is left to measure on ({self._last_words.rstrip('.')}): all finished trials are kept, and "
                "the same command goes on with them."
            )
        return [self.seconds_of(path) for path in paths]

    def _serve(self, number: int, waiting: deque[str]) -> None:
        """Measures at one place until nothing is left, or the place is lost; then its candidate waits again."""
        while True:
            try:
                path = waiting.popleft()
            except IndexError:
                return
            state, knobs = self._built[path]
            arguments = (state.task, self.device, knobs, path, self.places[number], self.config)
            try:
                seconds = list(self._runners[number].submit(measure, *arguments).result())
            except DeviceLostError as error:
                # A candidate that crashes a device looks like a device that goes away: it is tried once more.
                if path in self._retried:
                    self._ended(path, None, error)
                else:
                    self._retried.add(path)
                    waiting.appendleft(path)
            except DeviceError as error:
                waiting.appendleft(path)
                self._lost[number] = self._last_words = sentence(error)
                return
            except Exception as error:  # a wrong or crashing candidate, or a time-out
                self._ended(path, None, error)
            else:
                self._ended(path, seconds, None)

    def seconds_of(self, path: str) -> list[float] | None:
        """Of a candidate that was tried."""
        state, knobs = self._built[path]
        return state.seconds[key_of(knobs)]

    def _ended(self, path: str, seconds: list[float] | None, error: Exception | None) -> None:
        state, knobs = self._built[path]
        Path(path).unlink(missing_ok=True)
        with self._lock:
            state.seconds[key_of(knobs)] = seconds
            state.final = {}
            self.left -= 1
            if error is not None:
                self.errors[str(state.task), key_of(knobs)] = sentence(error)
            self._write(state, knobs, FAILED if seconds is None else seconds)
        self.on_trial(state, knobs, seconds)

    def _write(self, state: TaskState, knobs: Knobs, seconds: Sequence[float]) -> None:
        trace = knob.scheduled(state.module, state.space, knobs).trace
        self.database.commit_tuning_record(
            ms.database.TuningRecord(
                trace,
                self.database.commit_workload(state.module),
                list(seconds),
                self.device.target,
                ms.arg_info.ArgInfo.from_entry_func(state.module, remove_preproc=False),
            )
        )

    # ---- the last comparison
    def compare(self, state: TaskState, wanted: Sequence[Knobs], config: EvaluatorConfig) -> list[list[float]]:
        """Seconds of right candidates, measured in turns at one place; a value a turn.

        Raises:
            DeviceError: no place is left. TuningError: a candidate failed now.
        """
        paths = [str(Path(self._folder.name, f"final{number}.so")) for number, _ in enumerate(wanted)]
        jobs = [
            self._builders.submit(build, state.task, self.device, knobs, path)
            for knobs, path in zip(wanted, paths, strict=True)
        ]
        alive = [number for number in range(len(self._runners)) if number not in self._lost]
        try:
            for job in jobs:
                job.result()
            for number in [number for number in alive for _ in range(2)]:  # a lost one may come back
                job = self._runners[number].submit(
                    compare, state.task, self.device, list(wanted), paths, self.places[number], config
                )
                try:
                    return [list(some) for some in job.result()]
                except DeviceError as error:
                    self._last_words = sentence(error)
        except Exception as error:  # a build or a candidate that failed, or a time-out
            raise TuningError(f"The last comparison of {state.task} failed: {sentence(error)}") from error
        finally:
            for path in paths:
                Path(path).unlink(missing_ok=True)
        raise DeviceError(f"No device is left to measure on ({self._last_words.rstrip('.')}).")

    def write_final(self, state: TaskState, final: Mapping[Key, float]) -> None:
        """Writes down what the last comparison gave; the default knobs, which end it in the log, stand last."""
        for key, seconds in final.items():
            self._write(state, dict(key), [seconds])
        state.decide(final)

    # ---- for MetaSchedule
    @contextmanager
    def heard(self) -> Iterator[None]:
        """Keeps what is raised on its way through MetaSchedule, which may make another error of it."""
        try:
            yield
        except BaseException as error:
            self.raised = error
            raise

    def subject_of(self, module: tvm.IRModule) -> TaskState:
        """Whose candidate a module is."""
        return self.states[str(module["main"].attrs[FACTS])]

    def check_budget(self) -> None:
        """Raises Enough where nothing is left of it."""
        if self.left < 1 or (self.end is not None and time.monotonic() >= self.end):
            raise Enough

    def build_modules(self, modules: Sequence[tvm.IRModule]) -> list[str | None]:
        """As `build`, from annotated definitions; the path of a candidate that was tried before only says so."""
        wanted = [(self.subject_of(module), knob.read(module)) for module in modules]
        new = [number for number, (s, k) in enumerate(wanted) if key_of(k) not in s.seconds]
        over, new = new[self.left :], new[: self.left]
        paths: list[str | None] = [f"{KNOWN}{len(self._built) + number}" for number in range(len(wanted))]
        self._built |= dict(zip(paths, wanted, strict=True))
        for number, path in zip(new, self.build([wanted[number] for number in new]), strict=True):
            paths[number] = path
        for number in over:
            paths[number] = None  # a batch is of one size, whatever is left
        return paths

    def run_modules(self, paths: Sequence[str]) -> list[list[float] | None]:
        """As `run`, for paths of `build_modules`."""
        self.run([path for path in paths if not path.startswith(KNOWN)])
        return [self.seconds_of(path) for path in paths]


def sentence(error: Exception) -> str:
    """Why an errand failed, of what its worker raised."""
    if isinstance(error, TimeoutError):
        return "It took too long."
    lines = [line for line in str(error).splitlines() if line.strip()]  # a worker sends its traceback
    return re.sub(r"^[\w.]+: ", "", lines[-1]) if lines else type(error).__name__


@derived_object
class Builder(ms.builder.PyBuilder):
    """MetaSchedule's door to a runner's builders."""

    def __init__(self, runner: TrialRunner) -> None:
        super().__init__()
        self.runner = runner

    def build(self, build_inputs: list[ms.builder.BuilderInput]) -> list[ms.builder.BuilderResult]:
        """See MetaSchedule's `Builder`."""
        with self.runner.heard():
            self.runner.check_budget()
            paths = self.runner.build_modules([one.mod for one in build_inputs])
        return [ms.builder.BuilderResult(p, "The candidate was not built." if p is None else None) for p in paths]


@derived_object
class Ready(ms.runner.PyRunnerFuture):
    """A result that is there."""

    def __init__(self, seconds: list[float] | None) -> None:
        super().__init__()
        self.seconds = seconds

    def done(self) -> bool:
        """See MetaSchedule's `RunnerFuture`."""
        return True

    def result(self) -> ms.runner.RunnerResult:
        """See MetaSchedule's `RunnerFuture`."""
        return ms.runner.RunnerResult(self.seconds, "The candidate failed." if self.seconds is None else None)


@derived_object
class Runner(ms.runner.PyRunner):
    """MetaSchedule's door to a runner's measuring processes."""

    def __init__(self, runner: TrialRunner) -> None:
        super().__init__()
        self.runner = runner

    def run(self, runner_inputs: list[ms.runner.RunnerInput]) -> list[ms.runner.RunnerFuture]:
        """See MetaSchedule's `Runner`."""
        with self.runner.heard():
            return [Ready(s) for s in self.runner.run_modules([str(one.artifact_path) for one in runner_inputs])]
