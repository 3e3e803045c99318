"""Tuning logs: MetaSchedule's JSON databases, a folder a device, read line by line so that a damaged line costs no
other one.

`database_workload.json` holds a task a line, `database_tuning_record.json` a trial a line; see `tasks.facts` for what
a task says of itself, `README.md` for when it was tuned. Both grow by a line at a time (`files.append_line`): one that
was cut short is damaged, and costs no other one either.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import Any

from mest_compiler import schedules
from mest_compiler.files import append_line, clear_leftovers, write_text

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
    before = os.environ.get(FOLDER)
    os.environ[FOLDER] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ[FOLDER]
        else:
            os.environ[FOLDER] = before


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

    tasks: what `read_facts` gives, by the place of its line. lines: those that are whole, by file and place, from 0 on;
    bad: the others.
    """

    tasks: dict[int, dict[str, Any]]
    trials: list[tuple[int, Trial]]
    damaged: list[str]
    lines: dict[str, dict[int, str]]
    bad: list[str]

    def by_task(self) -> dict[int, list[Trial]]:
        """Each task's trials, in order."""
        found: dict[int, list[Trial]] = {}
        for place, trial in self.trials:
            found.setdefault(place, []).append(trial)
        return found


def read_log(folder: Path) -> Log:
    """What a folder holds; empty where there is none."""
    log = Log({}, [], [], {WORKLOADS: {}, RECORDS: {}}, [])
    seen: set[str] = set()
    for place, line, ended in _lines(folder / WORKLOADS):
        said = _facts(line) if ended else None
        if said is None:
            _skip(log, folder / WORKLOADS, place, line)
            continue
        log.tasks[place] = said
        log.lines[WORKLOADS][place] = line
    for place, line, ended in _lines(folder / RECORDS):
        try:
            workload, rest = json.loads(line)
            trial = _trial(rest)
            if not ended or workload not in log.tasks:
                raise KeyError(workload)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            _skip(log, folder / RECORDS, place, line)
            continue
        which = json.dumps([workload, sorted(trial.knobs.items())])
        log.trials.append((workload, replace(trial, again=which in seen)))
        seen.add(which)
        log.lines[RECORDS][place] = line
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
    MetaSchedule can read the rest.

    Trials name their workloads by line. So that a kill between the files mixes up none, each workload keeps its line,
    and a damaged one before it is replaced by a copy, which has no trials.
    """
    for name in (WORKLOADS, RECORDS, README):
        clear_leftovers(folder / name)  # a run with nothing left to do writes none of them
    log = read_log(folder)
    if log.damaged:
        for line in log.bad:
            append_line(folder / DAMAGED, line)
        workloads, records = log.lines[WORKLOADS], log.lines[RECORDS]
        _write_lines(folder / RECORDS, records.values())
        filler = next(iter(workloads.values()), "")
        _write_lines(
            folder / WORKLOADS, [workloads.get(place, filler) for place in range(max(workloads, default=-1) + 1)]
        )
    return log


def note(folder: Path, title: str, line: str) -> None:
    """Adds a line to a log's README."""
    path = folder / README
    old = path.read_text(encoding="utf-8") if path.exists() else f"# {title}\n\n"
    write_text(path, f"{old}- {line}\n")


def _lines(path: Path) -> list[tuple[int, str, bool]]:
    """(place from 0 on, line, whether it has its end) of a file's lines that are not empty."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = text.split("\n")
    return [(place, line, place + 1 < len(lines)) for place, line in enumerate(lines) if line.strip()]


def _skip(log: Log, path: Path, place: int, line: str) -> None:
    log.damaged.append(f"Line {place + 1} of the tuning log {path} is damaged and was skipped.")
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


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    write_text(path, "".join(line + "\n" for line in lines))
