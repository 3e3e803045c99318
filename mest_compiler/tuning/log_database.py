"""The tuning log that a search writes: MetaSchedule's database in memory, every workload and trial of which is in the
log's files before it counts.

MetaSchedule's own JSONDatabase leaves a trial out in silence where the disk is full.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.database import TuningRecord, Workload

from mest_compiler.files import append_line

from .database import RECORDS, WORKLOADS, Log


class LogDatabase:
    """Writes what is committed; `memory`: the database that MetaSchedule searches.

    No subclass of MetaSchedule's: an OSError would be none any more where it has gone through TVM.
    """

    def __init__(self, folder: Path, log: Log) -> None:
        """log: what the folder holds, `database.repaired`."""
        self._folder, self.memory = folder, ms.database.MemoryDatabase()
        self._places = {json.loads(line)[0]: place for place, line in reversed(log.lines[WORKLOADS].items())}
        path = folder / WORKLOADS
        self._next = path.read_bytes().count(b"\n") if path.exists() else 0
        self._earlier: dict[int, list[Any]] = defaultdict(list)  # records of workloads that nobody asked for yet
        for line in log.lines[RECORDS].values():
            place, record = json.loads(line)
            self._earlier[place].append(record)

    def commit_workload(self, mod: tvm.IRModule) -> Workload:
        """See MetaSchedule's `Database`; raises OSError as `append_line`."""
        if self.memory.has_workload(mod):
            return self.memory.commit_workload(mod)
        said = Workload(mod).as_json()
        if said[0] not in self._places:
            append_line(self._folder / WORKLOADS, _line(said))
            self._places[said[0]] = self._next
            self._next += 1
        workload = self.memory.commit_workload(mod)
        for record in self._earlier.pop(self._places[said[0]], ()):
            self.memory.commit_tuning_record(TuningRecord.from_json(record, workload))
        return workload

    def commit_tuning_record(self, record: TuningRecord) -> None:
        """See MetaSchedule's `Database`; raises OSError as `append_line`."""
        place = self._places[record.workload.as_json()[0]]
        append_line(self._folder / RECORDS, _line([place, record.as_json()]))
        self.memory.commit_tuning_record(record)

    def __len__(self) -> int:
        return len(self.memory)


def _line(said: Any) -> str:
    return json.dumps(said, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    """TVM's containers as Python's."""
    if isinstance(value, tvm_ffi.Array):
        return list(value)
    if isinstance(value, Mapping | tvm_ffi.Map):
        return dict(value.items())
    raise TypeError(f"{type(value).__name__} is not JSON serializable")
