"""Look-ups: the knobs that a tuning log says are the fastest for a kernel, on this device and this TVM."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import tvm

from mest_compiler.devices import Device
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.schedules.choice import Choice

from .database import Trial, fastest, logs_folder, read_log, standing
from .tasks import described, task_of

_said: set[str] = set()


def say_once(sentence: str) -> None:
    """A warning of the package's logger, the first time that it is said in this process."""
    if sentence not in _said:
        _said.add(sentence)
        logging.getLogger("mest_compiler").warning(sentence)


class Records:
    """A device's tuning log, read when it is first needed."""

    def __init__(self, device: Device, folder: Path | None = None, say: Callable[[str], None] = say_once) -> None:
        """folder: of all logs; None: `logs_folder`."""
        self.device, self._say = device, say
        self._root = folder if folder is not None else logs_folder()
        self._best: dict[str, Trial] | None = None
        self._compared: dict[str, Mapping[str, int]] = {}  # task -> the default knobs that its best ones beat, or are

    def tuned(self, direction: str, choice: Choice, layer: LayerProblem) -> Choice | None:
        """The choice with the fastest knobs on record, its source "tuned"; None: there is no record that holds here."""
        if choice.remake is None:
            return None
        trial = self.best().get(task_of(direction, choice, layer).key)
        if trial is None:
            return None
        if not all(hasattr(choice.knobs, name) for name in trial.knobs):
            self._say(
                f"A tuning record of {choice.kernel} in {self._folder} sets knobs that this kernel no longer has, and "
                "was not used: tune it again."
            )
            return None
        return replace(choice.with_knobs(**trial.knobs), source="tuned")

    def compared(self, direction: str, choice: Choice, layer: LayerProblem) -> bool:
        """Whether the best knobs on record were compared with those of the choice, side by side on this device: a CPU
        of this kind with as many threads, or the same OpenCL device with the same driver."""
        self.best()
        default = self._compared.get(task_of(direction, choice, layer).key)
        if default is None:
            return False
        return all(int(getattr(choice.knobs, name, -1)) == value for name, value in default.items())

    @property
    def _folder(self) -> Path:
        return self._root / self.device.record_folder

    def best(self) -> dict[str, Trial]:
        """The fastest trial of each task, by `Task.key`."""
        if self._best is None:
            self._best = {} if self._root is None else self._read()
        return self._best

    def _read(self) -> dict[str, Trial]:
        log, best = read_log(self._folder), {}
        for sentence in log.damaged:
            self._say(sentence)
        here, refused, own = described(self.device), set(), {}
        for place, said in log.tasks.items():
            if said["tvm"] != tvm.__version__:
                refused.add(f"TVM {said['tvm']}, and this is TVM {tvm.__version__}")
            elif _kind(said["device"]) != _kind(here):
                refused.add(_other(_kind(said["device"]), _kind(here)))
            else:
                # What is not said of an OpenCL device may differ.
                own[place] = said["device"] == here and self.device.hardware_known
        for reason in sorted(refused):
            self._say(f"Tuning records in {self._folder} were not used: they are of {reason}.")
        ranks: dict[str, tuple[bool, float]] = {}
        for place, trials in log.by_task().items():
            stand = standing(trials)
            trial = fastest(stand)
            if place not in own or trial is None:
                continue
            # Knobs found with another number of threads, or on another device of the profile, are better than none.
            task, rank = log.tasks[place]["task"], (not own[place], trial.seconds)
            if task not in ranks or rank < ranks[task]:
                ranks[task], best[task] = rank, trial
                self._compared.pop(task, None)
                if own[place] and stand[-1].first and stand[-1].again:
                    self._compared[task] = stand[-1].knobs
        return best


def _kind(device: Mapping[str, object]) -> dict[str, object]:
    """What a device must share with another one to have use for its records."""
    return {name: value for name, value in device.items() if name not in ("threads", "hardware")}


def _other(theirs: Mapping[str, object], here: Mapping[str, object]) -> str:
    """What differs between two devices."""
    names = [name for name in {**theirs, **here} if theirs.get(name) != here.get(name)]
    differs = lambda one: ", ".join(f"{name} {one.get(name)}" for name in names)  # noqa: E731
    return f"another device ({differs(theirs)}), and this one has {differs(here)}"


class TunedOrProbable:
    """Picks without measuring: the probable kernel, with the knobs on record where there are some."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def __call__(self, direction: str, layer: LayerProblem, found: Sequence[Choice]) -> Choice:
        """See `passes.tiling.plan.Pick`."""
        return self.records.tuned(direction, found[0], layer) or found[0]
