"""Tuning logs: whole lines are read whatever the others are, and only records that hold here are used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tvm.s_tir import meta_schedule as ms

from mest_compiler.devices import Device
from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.schedules import generators
from mest_compiler.schedules.candidates import candidates
from mest_compiler.schedules.choice import Choice
from mest_compiler.tuning import knobs as knob
from mest_compiler.tuning import records as looked_up
from mest_compiler.tuning import tasks as described
from mest_compiler.tuning.database import DAMAGED, FOLDER, RECORDS, WORKLOADS, read_log, repaired
from mest_compiler.tuning.definitions import workload
from mest_compiler.tuning.fastest import Fastest, label
from mest_compiler.tuning.records import Records, TunedOrProbable
from mest_compiler.tuning.tasks import Task, task_of

from ..schedules.convolutions import Conv
from ..schedules.sparse_layers import sparse_conv
from ..schedules.tiles import NARROW, profile, vector

DEVICE = profile(NARROW)
LAYER = sparse_conv(Conv(4, 8, (8, 8)), vector(NARROW, "float32"), "block", spare=0)
CHOICE = candidates("forward", DEVICE, LAYER)[-1]
TASK = task_of("forward", CHOICE, LAYER)
FASTER = {"pixels": 2, "groups": 1, "pixels_inner": 0}


def write(
    root: Path,
    trials: Mapping[float, Mapping[str, int]],
    device: Device = DEVICE,
    log_of: Device = DEVICE,
    task: Task = TASK,
) -> Path:
    """A log with trials of the task by their seconds; its folder."""
    folder = root / log_of.record_folder
    folder.mkdir(parents=True, exist_ok=True)
    database, module, space = ms.database.JSONDatabase(work_dir=str(folder)), workload(task, device), task.space(log_of)
    for seconds, knobs in trials.items():
        known = {name: knobs.get(name, values[0]) for name, values in space.items()}
        trace = knob.scheduled(module, space, known).trace
        arguments = ms.arg_info.ArgInfo.from_entry_func(module, remove_preproc=False)
        record = ms.database.TuningRecord(trace, database.commit_workload(module), [seconds], device.target, arguments)
        database.commit_tuning_record(record)
    return folder


@pytest.fixture
def said() -> list[str]:
    return []


def tuned(root: Path, said: list[str], choice: Choice = CHOICE) -> Choice | None:
    return Records(DEVICE, root, said.append).tuned("forward", choice, LAYER)


def test_the_fastest_right_trial_is_used(tmp_path: Path, said: list[str]) -> None:
    assert TASK.space(DEVICE)["pixels"][0] != FASTER["pixels"]
    write(tmp_path, {2e-3: {}, 1e-3: FASTER, 1e10: {"pixels": 1}})
    found = tuned(tmp_path, said)
    assert found.source == "tuned" and said == []
    assert (found.knobs.pixels, found.knobs.pixels_inner) == (2, False)
    assert found.make() is not None
    unmeasured = TunedOrProbable(Records(DEVICE, tmp_path, said.append))("forward", LAYER, [CHOICE])
    assert (unmeasured.source, unmeasured.knobs) == ("tuned", found.knobs)
    gradient = candidates("backward_weight", DEVICE, LAYER)[-1]
    assert Records(DEVICE, tmp_path, said.append).tuned("backward_weight", gradient, LAYER) is None


def test_only_failures_are_no_record(tmp_path: Path, said: list[str]) -> None:
    write(tmp_path, {1e10: FASTER})
    assert tuned(tmp_path, said) is None and said == []


def test_no_folder(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuned(tmp_path / "none", said) is None and said == []
    monkeypatch.setenv(FOLDER, "")
    assert Records(DEVICE).tuned("forward", CHOICE, LAYER) is None
    write(tmp_path, {1e-3: FASTER})
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert Records(DEVICE).tuned("forward", CHOICE, LAYER).knobs.pixels == 2


def test_of_another_tvm(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(described.tvm, "__version__", "0.26.0")
        folder = write(tmp_path, {1e-3: FASTER})
    assert tuned(tmp_path, said) is None
    (sentence,) = said
    assert str(folder) in sentence and "TVM 0.26.0, and this is TVM 0.27" in sentence


def test_of_another_cpu(tmp_path: Path, said: list[str]) -> None:
    write(tmp_path, {1e-3: FASTER}, replace(DEVICE, mcpu="znver4", registers=32))
    assert tuned(tmp_path, said) is None
    (sentence,) = said
    assert "another device (mcpu znver4, registers 32)" in sentence


def test_the_same_threads_come_first(tmp_path: Path, said: list[str]) -> None:
    write(tmp_path, {1e-4: {"pixels": 1}}, replace(DEVICE, threads=2))
    assert tuned(tmp_path, said).knobs.pixels == 1
    write(tmp_path, {1e-3: FASTER})
    assert tuned(tmp_path, said).knobs.pixels == 2 and said == []


def test_the_same_hardware_comes_first(tmp_path: Path, said: list[str]) -> None:
    """OpenCL's records say which device and driver they are of; older ones, and another's, are found all the same."""
    device = OpenClProfile("opencl", batch_lanes=8)
    layer = sparse_conv(Conv(4, 8, (8, 8)), generators(device).emit.Vec(8, "float32"), "block", spare=0)
    choice = candidates("forward", device, layer)[-1]
    task = task_of("forward", choice, layer)
    name = "tiles"
    default, *others = task.space(device)[name]
    here, elsewhere = replace(device, hardware="A, driver 1"), replace(device, hardware="A, driver 2")

    def found(wanted: OpenClProfile) -> tuple[int, bool]:
        records = Records(wanted, tmp_path, said.append)
        knobs = records.tuned("forward", choice, layer).knobs
        return getattr(knobs, name), records.compared("forward", choice, layer)

    write(tmp_path, {1e-4: {name: others[0]}}, device, device, task)
    assert [found(one) for one in (device, here, elsewhere)] == [(others[0], False)] * 3
    best = {name: others[1]}
    for trials in ({2e-3: {}, 1e-3: best}, {1e-3: best}, {2e-3: {}}):  # compared once more at the end, the default last
        write(tmp_path, trials, here, device, task)
    assert [found(one) for one in (device, here, elsewhere)] == [
        (others[0], False), (others[1], True), (others[0], False)
    ]  # fmt: skip
    assert said == [] and default not in others


def test_knobs_that_are_gone(tmp_path: Path, said: list[str]) -> None:
    folder = write(tmp_path, {1e-3: FASTER})
    path = folder / RECORDS
    path.write_text(path.read_text().replace("knob.pixels_inner", "knob.unrolled"))
    assert tuned(tmp_path, said) is None
    assert "no longer has" in said[0]


@pytest.mark.parametrize("name", [RECORDS, WORKLOADS])
@pytest.mark.parametrize("damage", [lambda line: line[: len(line) // 2], lambda line: "{}", lambda line: "[7, 1]"])
def test_a_damaged_line_costs_no_other(tmp_path: Path, said: list[str], name: str, damage) -> None:
    other = replace(DEVICE, threads=2)
    folder = write(tmp_path, {1e-3: FASTER}, other)
    write(tmp_path, {2e-3: {"pixels": 1}})
    path = folder / name
    first, second = path.read_text().splitlines()
    path.write_text(f"{damage(first)}\n{second}\n")
    assert tuned(tmp_path, said).knobs.pixels == 1
    assert said[0] == f"Line 1 of the tuning log {path} is damaged and was skipped."
    before = read_log(folder).trials
    log = repaired(folder)
    assert log.damaged == said and log.trials == before
    assert damage(first) in (folder / DAMAGED).read_text().splitlines()
    assert read_log(folder).damaged == [] and len(read_log(folder).trials) == 1
    assert len(ms.database.JSONDatabase(work_dir=str(folder))) == 1  # MetaSchedule reads what is left


def test_a_line_that_was_being_written(tmp_path: Path, said: list[str]) -> None:
    folder = write(tmp_path, {1e-3: FASTER, 2e-3: {}})
    path = folder / RECORDS
    path.write_bytes(path.read_bytes()[:-40])
    assert len(repaired(folder).trials) == 1
    write(tmp_path, {3e-3: {"pixels": 1}})
    assert [t.seconds for _, t in read_log(folder).trials] == [1e-3, 3e-3]


def test_warnings_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        looked_up.say_once("A sentence of this test.")
    assert [r.message for r in caplog.records] == ["A sentence of this test."]


def test_tuned_knobs_run_against_the_default_ones(tmp_path: Path, said: list[str], monkeypatch) -> None:
    write(tmp_path, {1e-3: FASTER})
    records = Records(DEVICE, tmp_path, said.append)
    pick = Fastest(DEVICE, records=records)
    running = pick.contestants("forward", LAYER, [CHOICE])
    assert [c.source for c in running] == ["default", "tuned"]
    best = {label(running[0]): 2.0, label(running[1]): 1.0}
    monkeypatch.setattr(Fastest, "measure", lambda self, direction, layer, found: best)
    assert pick("forward", LAYER, [CHOICE]).source == "tuned"
    best[label(running[0])] = 0.5
    assert pick("forward", LAYER, [CHOICE]).source == "measured"  # never slower than the default


def test_default_knobs_that_won_count_as_tuned(tmp_path: Path, said: list[str]) -> None:
    write(tmp_path, {1e-3: {}})
    (only,) = Fastest(DEVICE, records=Records(DEVICE, tmp_path, said.append)).contestants("forward", LAYER, [CHOICE])
    assert (only.source, only.knobs) == ("tuned", CHOICE.knobs)


def test_what_a_log_is_made_of(tmp_path: Path) -> None:
    folder = write(tmp_path, {1e-3: FASTER})
    (_, (trace, seconds, target, arguments)) = json.loads((folder / RECORDS).read_text())
    assert seconds == [1e-3] and target["mcpu"] == DEVICE.mcpu and len(arguments) == 6
    assert knob.of_trace(trace)[0]["pixels"] == 2
