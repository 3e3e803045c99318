"""Tuning logs: MetaSchedule's JSON databases, a folder a device, read line by line so that a damaged line costs no
other one.

`database_workload.json` holds a task a line, `database_tuning_record.json` a trial a line; see `tasks.facts` for what
a task says of itself, `README.md` for when it was tuned.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

from mest_compiler import schedules
from mest_compiler.devices import Device

from .knobs import of_trace
from .tasks import FACTS, read_facts

WORKLOADS, RECORDS, DAMAGED, README = (
    "database_workload.json", "database_tuning_record.json", "damaged_lines.txt", "README.md"
)  # fmt: skip
FOLDER = "MEST_TUNING_LOGS"
"""Environment variable that names another folder of tuning logs; empty: none are used."""
FAILED_S = 1e9
"""Seconds from which on a trial is one that failed: MetaSchedule writes 1e10."""


def logs_folder() -> Path | None:
    """Where the tuning logs are: beside the schedules, in a clone as in what is installed from a wheel."""
    named = os.environ.get(FOLDER)
    if named is not None:
        return Path(named) if named else None
    return Path(schedules.__path__[0]).parent / "tuning_logs"


@contextmanager
def no_logs() -> Iterator[None]:
    """Within it kernels have their default knobs."""
    with patch.dict(os.environ, {FOLDER: ""}):
        yield


def device_folder(device: Device) -> str:
    """Name of a device's folder among the logs."""
    return f"cpu-{device.mcpu}" if device.kind == "cpu" else device.name


@dataclass(frozen=True)
class Trial:
    """One measured candidate. seconds: None where it failed. first: its knobs are those that its space began with.
    again: the log has them before, so this is of a task's last comparison."""

    knobs: Mapping[str, int]
    seconds: float | None
    first: bool
    again: bool = False


@dataclass(frozen=True)
class Log:
    """One folder's tasks and trials, in the order of their lines; `damaged`: sentences about lines that were skipped.

    tasks: what `read_facts` gives. good: the lines that are whole, by file.
    """

    tasks: dict[int, dict[str, Any]]
    trials: list[tuple[int, Trial]]
    damaged: list[str]
    good: dict[str, list[str]]
    bad: list[str]

    def by_task(self) -> dict[int, list[Trial]]:
        """Each task's trials, in order."""
        found: dict[int, list[Trial]] = {}
        for place, trial in self.trials:
            found.setdefault(place, []).append(trial)
        return found


def read_log(folder: Path) -> Log:
    """What a folder holds; empty where there is none."""
    log = Log({}, [], [], {WORKLOADS: [], RECORDS: []}, [])
    places: dict[int, int] = {}  # of a workload: line -> place among the good ones
    seen: set[str] = set()
    for number, line in _lines(folder / WORKLOADS):
        said = _facts(line)
        if said is None:
            _skip(log, folder / WORKLOADS, number, line)
            continue
        places[number - 1] = len(log.good[WORKLOADS])
        log.tasks[len(log.good[WORKLOADS])] = said
        log.good[WORKLOADS].append(line)
    for number, line in _lines(folder / RECORDS):
        try:
            workload, rest = json.loads(line)
            place, trial = places[workload], _trial(rest)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            _skip(log, folder / RECORDS, number, line)
            continue
        which = json.dumps([place, sorted(trial.knobs.items())])
        log.trials.append((place, replace(trial, again=which in seen)))
        seen.add(which)
        log.good[RECORDS].append(line if place == workload else json.dumps([place, rest]))
    return log


def standing(trials: Sequence[Trial]) -> list[Trial]:
    """Of one task's trials in order, those that may be called its best: what beat the default knobs in the last
    comparison, and those, which end it; all of them where there was none."""
    ends = [number for number, trial in enumerate(trials) if trial.first and trial.again]
    if not ends:
        return list(trials)
    begin = ends[-1]
    while begin and trials[begin - 1].again and not trials[begin - 1].first:
        begin -= 1
    return list(trials[begin : ends[-1] + 1])


def fastest(trials: Sequence[Trial]) -> Trial | None:
    """The fastest right one."""
    return min((trial for trial in trials if trial.seconds is not None), key=lambda t: t.seconds, default=None)


def repaired(folder: Path) -> Log:
    """The log of a folder that is written to next: damaged lines are moved into a file of their own, so that
    MetaSchedule can read the rest."""
    log = read_log(folder)
    if log.damaged:
        for name, lines in log.good.items():
            _write_whole(folder / name, "".join(line + "\n" for line in lines))
        with (folder / DAMAGED).open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in log.bad)
    return log


def note(folder: Path, title: str, line: str) -> None:
    """Adds a line to a log's README."""
    path = folder / README
    old = path.read_text(encoding="utf-8") if path.exists() else f"# {title}\n\n"
    _write_whole(path, f"{old}- {line}\n")


def _lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1 on, line) of a file's lines that are not empty."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _skip(log: Log, path: Path, number: int, line: str) -> None:
    log.damaged.append(f"Line {number} of the tuning log {path} is damaged and was skipped.")
    log.bad.append(line)


def _facts(line: str) -> dict[str, Any] | None:
    """The facts of a workload's line; None for one that is damaged."""
    try:
        _, packed = json.loads(line)
        text = base64.b64decode(packed, validate=True).decode("utf-8", errors="replace")
        start = text.index(f'"{FACTS} ')
        said, _ = json.JSONDecoder().raw_decode(text, start)
        return read_facts(said) if text.rstrip().endswith("}") else None
    except (ValueError, TypeError, KeyError, binascii.Error):
        return None


def _trial(record: Sequence[Any]) -> Trial:
    trace, seconds, _target, _arguments = record
    knobs, first = of_trace(trace)
    took = mean(float(s) for s in seconds)
    return Trial(knobs, took if isfinite(took) and 0 < took < FAILED_S else None, first)


def _write_whole(path: Path, text: str) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        whole = Path(place, path.name)
        whole.write_text(text, encoding="utf-8")
        os.replace(whole, path)
