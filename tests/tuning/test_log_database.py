"""The log that a search writes: MetaSchedule reads it, a full disk is said, and a kill mixes up no trials."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tvm.s_tir import meta_schedule as ms

from mest_compiler import files
from mest_compiler.tuning import database as logs
from mest_compiler.tuning import knobs as knob
from mest_compiler.tuning.database import RECORDS, WORKLOADS, read_log, repaired
from mest_compiler.tuning.definitions import workload
from mest_compiler.tuning.log_database import LogDatabase

from .test_records import DEVICE, FASTER, TASK

THREADS = [replace(DEVICE, threads=number) for number in (1, 2, 3)]


def commit(database: LogDatabase, device, seconds: float) -> None:
    module, space = workload(TASK, device), TASK.space(DEVICE)
    known = {name: FASTER.get(name, values[0]) for name, values in space.items()}
    arguments = ms.arg_info.ArgInfo.from_entry_func(module, remove_preproc=False)
    trace = knob.scheduled(module, space, known).trace
    known_workload = database.commit_workload(module)
    database.commit_tuning_record(ms.database.TuningRecord(trace, known_workload, [seconds], device.target, arguments))


def seconds_by_threads(folder: Path) -> dict[int, list[float | None]]:
    log = read_log(folder)
    return {
        log.tasks[place]["device"]["threads"]: [trial.seconds for trial in trials]
        for place, trials in log.by_task().items()
    }


def test_a_log_goes_on_and_metaschedule_reads_it(tmp_path: Path) -> None:
    for run in (1, 2):
        database = LogDatabase(tmp_path, repaired(tmp_path))
        for number, device in enumerate(THREADS, 1):
            commit(database, device, run * number * 1e-3)
        assert len(database) == 3 * run
        (best,) = database.memory.get_top_k(database.commit_workload(workload(TASK, THREADS[1])), 1)
        assert [float(s) for s in best.run_secs] == [2e-3]
    assert seconds_by_threads(tmp_path) == {1: [1e-3, 2e-3], 2: [2e-3, 4e-3], 3: [3e-3, 6e-3]}
    theirs = ms.database.JSONDatabase(work_dir=str(tmp_path))
    assert len(theirs) == 6 and theirs.has_workload(workload(TASK, THREADS[2]))
    assert len((tmp_path / WORKLOADS).read_text().splitlines()) == 3


@pytest.mark.parametrize("name", [WORKLOADS, RECORDS])
def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    database = LogDatabase(tmp_path, repaired(tmp_path))
    commit(database, THREADS[0], 1e-3)
    device = THREADS[1 if name == WORKLOADS else 0]
    with monkeypatch.context() as patch:

        def full(handle: int, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(files, "_write", full)
        with pytest.raises(OSError, match=f"No space left on device: .*{name}"):
            commit(database, device, 2e-3)
    assert len(database) == 1
    commit(database, device, 3e-3)
    expected = {1: [1e-3], 2: [3e-3]} if name == WORKLOADS else {1: [1e-3, 3e-3]}
    assert seconds_by_threads(tmp_path) == expected


@pytest.mark.parametrize("line", [0, 1, 2])
@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_kill_during_a_repair_mixes_up_no_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: int, writes: int
) -> None:
    database = LogDatabase(tmp_path, repaired(tmp_path))
    for number, device in enumerate(THREADS, 1):
        commit(database, device, number * 1e-3)
    lines = (tmp_path / WORKLOADS).read_text().splitlines()
    lines[line] = lines[line][:100]
    (tmp_path / WORKLOADS).write_text("\n".join(lines) + "\n")
    expected = {number: [number * 1e-3] for number in (1, 2, 3) if number != line + 1}
    left = writes

    def until_killed(path: Path, text: str) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        files.write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(logs, "write_text", until_killed)
        if writes < 2:
            with pytest.raises(KeyboardInterrupt):
                repaired(tmp_path)
        else:
            repaired(tmp_path)
    assert seconds_by_threads(tmp_path) == expected
    commit(LogDatabase(tmp_path, repaired(tmp_path)), THREADS[line], 9e-3)
    assert seconds_by_threads(tmp_path) == expected | {line + 1: [9e-3]}
    assert len(ms.database.JSONDatabase(work_dir=str(tmp_path))) == 3


def test_a_line_without_its_end_is_left_out(tmp_path: Path) -> None:
    database = LogDatabase(tmp_path, repaired(tmp_path))
    commit(database, THREADS[0], 1e-3)
    commit(database, THREADS[0], 2e-3)
    path = tmp_path / RECORDS
    path.write_bytes(path.read_bytes()[:-1])
    assert json.loads(path.read_text().splitlines()[-1])  # whole but for its end: the next line would take its place
    assert seconds_by_threads(tmp_path) == {1: [1e-3]}
