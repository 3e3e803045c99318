"""The search with real workers on a tiny layer: what it writes, that it goes on where it was stopped, and that a wrong
candidate never counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.s_tir import meta_schedule as ms

from mest_compiler.devices import local_cpu
from mest_compiler.errors import DeviceError, TuningError
from mest_compiler.kernels import convolution
from mest_compiler.linking import library_bytes
from mest_compiler.runtime.hosts import LocalHost
from mest_compiler.schedules.candidates import candidates
from mest_compiler.schedules.cpu.emit import Vec
from mest_compiler.tuning import finals, trial_runner
from mest_compiler.tuning.database import README, RECORDS, Trial, read_log, standing
from mest_compiler.tuning.definitions import definition
from mest_compiler.tuning.measure import Bench, EvaluatorConfig, build, settled
from mest_compiler.tuning.records import Records
from mest_compiler.tuning.search import Budget, Tuned, tune
from mest_compiler.tuning.tasks import task_of
from mest_compiler.tuning.trial_runner import TrialRunner, key_of

from ..schedules.convolutions import Conv
from ..schedules.sparse_layers import sparse_conv, with_capacity
from .workers import shared_workers

DEVICE = local_cpu(1)
CONFIG = EvaluatorConfig(repeats=2, repeat_ms=1, rounds=1, patience_s=0)
WHOLE = sparse_conv(Conv(8, 8, (8, 8), batch=9), Vec(DEVICE.lanes("float32"), "float32"), "block", spare=0)
LAYER = with_capacity(WHOLE, WHOLE.sparse.capacity // 8)
(CHOICE,) = candidates("forward", DEVICE, LAYER)
TASK = task_of("forward", CHOICE, LAYER)
TRIALS, STOPPED_AFTER = 6, 3


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    with shared_workers(trial_runner):
        yield


def lines(root: Path) -> list[str]:
    """What the log says of trials, a line each."""
    return (root / DEVICE.record_folder / RECORDS).read_text().splitlines()


def searched(folder: Path) -> list[Trial]:
    """The trials of a log without those of last comparisons."""
    return [trial for _, trial in read_log(folder).trials if not trial.again]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A log whose tuning was interrupted within a batch, and the trials it had by then."""
    root = tmp_path_factory.mktemp("logs")

    def interrupt(done: int, total: int, what: str) -> None:
        assert total == TRIALS
        if done == STOPPED_AFTER:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune({TASK: 1.0}, DEVICE, root, Budget(TRIALS), progress=interrupt, config=CONFIG)
    return root, lines(root)


@pytest.fixture(scope="module")
def tuned(stopped: tuple[Path, list[str]]) -> Tuned:
    """The same tuning, gone on with to its end."""
    (found,) = tune({TASK: 1.0}, DEVICE, stopped[0], Budget(TRIALS), title="a layer", config=CONFIG)
    return found


def test_an_interrupted_tuning_goes_on(stopped: tuple[Path, list[str]], tuned: Tuned) -> None:
    root, before = stopped
    assert len(before) == STOPPED_AFTER
    assert lines(root)[:STOPPED_AFTER] == before
    assert len(searched(root / DEVICE.record_folder)) == tuned.trials == TRIALS
    log = read_log(root / DEVICE.record_folder)
    assert len({key_of(trial.knobs) for _, trial in log.trials}) == TRIALS  # nothing was measured twice
    assert len(log.tasks) == 1 and log.damaged == []
    note = (root / DEVICE.record_folder / README).read_text()
    assert f"a layer; {TRIALS - STOPPED_AFTER} trials" in note and tvm.__version__ in note


def test_what_it_found(stopped: tuple[Path, list[str]], tuned: Tuned) -> None:
    assert tuned.failed == 0 and 0 < tuned.best <= tuned.default
    found = Records(DEVICE, stopped[0]).tuned("forward", CHOICE, LAYER)
    assert {name: int(getattr(found.knobs, name)) for name in tuned.knobs} == tuned.knobs


def test_the_last_comparison_stands(stopped: tuple[Path, list[str]], tuned: Tuned) -> None:
    trials = [trial for _, trial in read_log(stopped[0] / DEVICE.record_folder).trials]
    *winners, default = standing(trials)
    assert default.first and default.again and default.seconds == pytest.approx(tuned.default)
    assert len(winners) <= finals.FINALISTS and all(won.seconds < default.seconds for won in winners)


def test_a_lucky_trial_does_not_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default was measured while the machine was slow; side by side it is the faster one."""
    folder = tmp_path / DEVICE.record_folder
    folder.mkdir()
    with TrialRunner(DEVICE, ms.database.JSONDatabase(work_dir=str(folder)), config=CONFIG) as runner:
        state = runner.state(TASK)
        other = {**state.first, "pixels": state.space["pixels"][1]}
        given = {key_of(state.first): 9.0, key_of(other): 1.0}
        monkeypatch.setattr(
            runner, "run", lambda paths: [runner._ended(p, [given[key_of(runner._built[p][1])]], None) for p in paths]
        )
        runner.trials([(state, state.first), (state, other)])
        assert state.best == (other, 1.0)
        configs: list[EvaluatorConfig] = []
        times = [[4.0, 2.0, 2.0], [4.4, 2.2, 1.0]]
        monkeypatch.setattr(runner, "compare", lambda state, wanted, config: configs.append(config) or times)
        finals.decide(runner, state, patience=0.9)
        assert [config.patience_s for config in configs] == [0.0]  # of CONFIG, which is shorter
        runner.config = EvaluatorConfig(patience_s=1.0, turns=9)
        finals.decide(runner, state, patience=0.9)
        finals.decide(runner, state, patience=-5.0)
        assert [config.patience_s for config in configs[1:]] == pytest.approx([0.1, 0.0])
        assert state.best == (state.first, 2.0)
    assert dict(Records(DEVICE, tmp_path).best()[TASK.key].knobs) == state.first
    (only,) = standing([trial for _, trial in read_log(folder).trials])
    assert (only.knobs, only.seconds) == (state.first, 2.0)


def test_a_finished_tuning_measures_nothing(stopped: tuple[Path, list[str]], tuned: Tuned) -> None:
    before = lines(stopped[0])
    (again,) = tune({TASK: 1.0}, DEVICE, stopped[0], Budget(TRIALS), config=CONFIG)
    assert again.best == pytest.approx(tuned.best) and lines(stopped[0]) == before


@pytest.mark.slow
def test_the_time_is_kept(stopped: tuple[Path, list[str]], tuned: Tuned) -> None:
    folder = stopped[0] / DEVICE.record_folder
    before = len(searched(folder))

    def slow(done: int, total: int, what: str) -> None:  # the time is over within the first batch of the search
        time.sleep(0.5 if done > before else 0)

    (found,) = tune({TASK: 1.0}, DEVICE, stopped[0], Budget(None, 3.0), config=CONFIG, progress=slow)
    assert found.trials == len(searched(folder)) and before <= found.trials <= before + 8


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [(Budget(0), "0 trials finds nothing"), (Budget(None, 0.0), "no time"), (Budget(), "needs an end")],
)
def test_budgets_that_allow_nothing(tmp_path: Path, budget: Budget, sentence: str) -> None:
    with pytest.raises(TuningError, match=sentence):
        tune({TASK: 1.0}, DEVICE, tmp_path, budget)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_tune(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="nothing to tune"):
        tune({}, DEVICE, tmp_path, Budget(1))


def test_a_wrong_candidate_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, path = Bench(TASK, DEVICE, LocalHost(DEVICE)), tmp_path / "right.so"
    build(TASK, DEVICE, {}, str(path))
    assert len(bench.seconds(path.read_bytes(), CHOICE, CONFIG)) == CONFIG.repeats
    # The same but for one thing: sums begin with 1.
    monkeypatch.setattr(
        convolution, "zero", lambda g, buffer, index: convolution.T.buffer_store(buffer, tirx.const(1, g.dtype), index)
    )
    wrong = tvm.IRModule({"main": definition(TASK).with_attr("global_symbol", "main")})
    library = library_bytes(tvm.tirx.build(wrong, target=DEVICE.target), DEVICE)
    default = CHOICE.with_knobs(groups=1)
    with pytest.raises(TuningError, match=f"wrong in {np.prod(bench.expected().shape)} of"):
        bench.seconds(library, default, CONFIG)


def test_what_crashes_is_recorded_and_the_next_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = trial_runner.measure
    database = ms.database.JSONDatabase(work_dir=str(tmp_path))
    with TrialRunner(DEVICE, database, config=CONFIG) as runner:
        state = runner.state(TASK)
        monkeypatch.setattr(trial_runner, "measure", lambda *job: os._exit(3))
        runner.trials([(state, state.first)])
        monkeypatch.setattr(trial_runner, "measure", real)
        monkeypatch.setattr(trial_runner, "build", lambda *job: 1 / 0)
        other = {**state.first, "pixels": state.space["pixels"][1]}
        runner.trials([(state, other)])
        monkeypatch.undo()
        last = {**state.first, "pixels": state.space["pixels"][2]}
        runner.trials([(state, last), (state, state.first)])
        assert "division by zero" in runner.errors[str(TASK), key_of(other)]
        assert dict(state.best[0]) == last
    (first, second, third) = (trial for _, trial in read_log(tmp_path).trials)
    assert (first.knobs, first.seconds, first.first) == (state.first, None, True)
    assert second.seconds is None and third.seconds > 0


@pytest.mark.slow
def test_a_device_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*job: object) -> None:
        from mest_compiler.errors import DeviceError

        raise DeviceError("The server is gone.")

    gone.__module__ = "__main__"  # workers get it by value
    database = ms.database.JSONDatabase(work_dir=str(tmp_path))
    monkeypatch.setattr(trial_runner, "measure", gone)
    with TrialRunner(DEVICE, database, config=CONFIG) as runner:
        state = runner.state(TASK)
        with pytest.raises(DeviceError, match=r"No device is left to measure on \(The server is gone"):
            runner.trials([(state, state.first)])
    assert read_log(tmp_path).trials == []  # it is no fault of the candidate's


def test_times_are_repeated_until_they_agree() -> None:
    config, given = (
        EvaluatorConfig(repeats=2, spread=0.1, rounds=3, pause_s=0),
        iter([[3.0, 1.0], [1.05, 2.0], [9.0, 9.0]]),
    )
    assert settled(lambda: next(given), config) == [1.0, 1.05]
    assert next(given) == [9.0, 9.0]  # the third round was not needed
    noisy = iter([[4.0, 1.0], [3.0, 9.0], [2.0, 9.0], [1.0, 1.0]])
    assert settled(lambda: next(noisy), config) == [1.0, 2.0]


KILLED = """
import sys
from pathlib import Path
from mest_compiler.tuning.search import Budget, tune
from mest_compiler.tuning.tasks import task_from
from mest_compiler.tuning.measure import EvaluatorConfig
from mest_compiler.devices import local_cpu
import json
task = task_from(json.loads(sys.argv[1]))
config = EvaluatorConfig(repeats=2, repeat_ms=1, rounds=1, patience_s=0)
print(tune({task: 1.0}, local_cpu(1), Path(sys.argv[2]), Budget(int(sys.argv[3])), config=config)[0].trials, flush=True)
"""


@pytest.mark.slow
def test_a_killed_tuning_loses_no_finished_trial(tmp_path: Path) -> None:
    rng, finished, command = np.random.default_rng(), [], [sys.executable, "-c", KILLED, TASK.key, str(tmp_path), "16"]
    path = tmp_path / DEVICE.record_folder / RECORDS
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        count = len(finished)
        while process.poll() is None and (not path.exists() or len(path.read_text().splitlines()) <= count):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.0))
        finished = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert path.read_text().startswith("".join(finished))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "16", done.stderr
    assert path.read_text().startswith("".join(finished))
    assert len(searched(path.parent)) == 16
