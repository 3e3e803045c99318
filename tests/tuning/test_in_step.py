"""Tasks decided in the step: what wins there is written down, whatever won alone."""

from __future__ import annotations

import gc
import signal
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from tvm.s_tir import meta_schedule as ms

from mest_compiler import pace
from mest_compiler.cli.tuning import Asked, compile_to
from mest_compiler.devices import CpuProfile, local_cpu
from mest_compiler.passes.pipeline import probable
from mest_compiler.passes.tiling.plan import Pick
from mest_compiler.runtime import kernel_clock
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.kernel_clock import KernelClock
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.tuning import finals, in_step
from mest_compiler.tuning.database import Trial, read_log, standing
from mest_compiler.tuning.fastest import Fastest
from mest_compiler.tuning.finals import finalists
from mest_compiler.tuning.in_step import InStep, Step
from mest_compiler.tuning.measure import EvaluatorConfig
from mest_compiler.tuning.records import Records
from mest_compiler.tuning.search import _recall
from mest_compiler.tuning.tasks import Task, tasks_of
from mest_compiler.tuning.trial_runner import Knobs, TaskState, TrialRunner, key_of

from ..whole_step.cases import unoptimised
from .workers import shared_workers

DEVICE = local_cpu(1)
NETWORK = f"{Path(__file__).with_name('tiny_net.py')}:make"
ASKED = Asked(NETWORK, "block", 0.9, None, 1.0, 3, "8x8", 10, 16, "cpu", 1, 0)
LAYERS = ASKED.layers()
TASKS = list(tasks_of(LAYERS.values(), DEVICE))
STEP = Step(LAYERS, partial(compile_to, ASKED))


def compile_quickly(asked: Asked, pick: Pick, folder: str) -> None:
    """`compile_to` without LLVM's optimiser: an errand of another process."""
    CpuProfile.target = property(lambda profile: tvm.target.Target({**profile.llvm, "opt-level": 0}))
    compile_to(asked, pick, folder)


compile_quickly.__module__ = "__main__"  # workers get it by value


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Nothing here asks how fast a step is; and of the workers that compile steps one is enough."""
    with pytest.MonkeyPatch.context() as patch, shared_workers(in_step):
        patch.setattr(CpuProfile, "target", property(unoptimised))
        patch.setattr(pace, "beats", dict)
        yield


@pytest.fixture(autouse=True)
def _measured_once(compiled_once: None) -> None:
    """The kernels of the network's layers."""


def silent(what: str) -> None:
    """Nobody listens."""


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[TrialRunner]:
    """A runner with an empty log."""
    folder = tmp_path / DEVICE.record_folder
    folder.mkdir()
    with TrialRunner(
        DEVICE, ms.database.JSONDatabase(work_dir=str(folder)), config=EvaluatorConfig(patience_s=0)
    ) as runner:
        yield runner


def tried(runner: TrialRunner, task: Task, others: int) -> TaskState:
    """A task whose default knobs took 4 s, and so many others 1 s, 2 s and so on, alone; all of it in the log."""
    state = runner.state(task)
    name = max(state.space, key=lambda name: len(state.space[name]))
    values = state.space[name][1 : others + 1]
    given = [(state.first, 4.0), *(({**state.first, name: v}, 1.0 + i) for i, v in enumerate(values))]
    for knobs, seconds in given:
        state.seconds[key_of(knobs)] = [seconds]
        runner._write(state, knobs, [seconds])
    return state


class Clockwork:
    """An entrant whose kernels of each task take what `ms` says of their knobs."""

    def __init__(self, tasks: Sequence[Task], knobs: Mapping[Task, Knobs], ms: Mapping[object, float], off: float):
        self.times = {t: ms.get((t, key_of(knobs[t])), 10.0) if t in knobs else 10.0 for t in tasks}
        self.logits, self.gradients = np.ones(3), {"weight": np.ones(3) + off}

    def turn(self) -> tuple[dict[Task, float], float]:
        """See `in_step.Entrant`."""
        return self.times, sum(self.times.values())


def contest(monkeypatch: pytest.MonkeyPatch, ms: Mapping[object, float], wrong: Knobs | None = None) -> list[str]:
    """Contests are of clockworks from now on; says what was compiled. wrong: knobs that give other gradients."""
    compiled: list[str] = []

    def artifacts(self: in_step._Contest, wanted: Sequence[Mapping[Task, Knobs]]) -> list[SimpleNamespace]:
        self.compiled += len(wanted)
        compiled.extend(str({str(t): k for t, k in knobs.items()}) for knobs in wanted)
        return [SimpleNamespace(knobs=knobs, manifest={"memory": {"planned_peak": 1}}) for knobs in wanted]

    def entrant(artifact: SimpleNamespace, tasks: Mapping[object, Task]) -> Clockwork:
        off = 1.0 if any(some == wrong for some in artifact.knobs.values()) else 0.0
        return Clockwork(list(tasks.values()), artifact.knobs, ms, off)

    monkeypatch.setattr(in_step._Contest, "artifacts", artifacts)
    monkeypatch.setattr(in_step, "Entrant", entrant)
    return compiled


def test_what_wins_in_the_step_stands(runner: TrialRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (tried(runner, task, 2) for task in [t for t in TASKS if "block" in str(t)][:3])
    (_, a), (_, b), _ = first.ranked()
    (_, lost), _, _ = third.ranked()
    compiled = contest(monkeypatch, {(first.task, a): 12.0, (first.task, b): 8.0, (third.task, lost): 9.8})
    last = InStep(STEP, DEVICE, tmp_path)
    last(runner, [first, second, third], silent, silent, None)
    # In the step the slower one alone is the faster, and what is as fast as the default one is no winner.
    assert first.final == {b: pytest.approx(0.008), key_of(first.first): pytest.approx(0.010)}
    assert second.final == {key_of(second.first): pytest.approx(0.010)} and second.winner is None
    assert third.final == {key_of(third.first): pytest.approx(0.010)}
    assert last.outcome.gain > 1 and last.outcome.default_ms - last.outcome.best_ms == pytest.approx(2.0)
    assert last.outcome.winners == 1 and last.outcome.steps == len(compiled) - 1 == 2 + 2 + 1
    trials = read_log(tmp_path / DEVICE.record_folder).by_task()
    stand = [standing(some) for some in trials.values()]
    assert sorted(len(some) for some in stand) == [1, 1, 2]
    best = Records(DEVICE, tmp_path).best()
    assert key_of(best[first.task.key].knobs) == b
    # Once more there is nothing to compare.
    again = InStep(STEP, DEVICE, tmp_path)
    again(runner, [first, second, third], silent, silent, None)
    assert again.outcome is None and len(compiled) == last.outcome.steps + 1


def test_what_computes_something_else_is_left_out(
    runner: TrialRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tried(runner, next(t for t in TASKS if "block" in str(t)), 2)
    (_, a), (_, b), _ = state.ranked()
    contest(monkeypatch, {(state.task, a): 1.0, (state.task, b): 8.0}, wrong=dict(a))
    said: list[str] = []
    InStep(STEP, DEVICE, tmp_path)(runner, [state], silent, said.append, None)
    assert key_of(state.best[0]) == b and "compute something else" in said[0]


def test_steps_agree_but_for_rounding(tmp_path: Path) -> None:
    """Other knobs round otherwise; another network's loss, or a gradient that is wrong by a tenth, is no rounding."""
    kernels, _ = InStep(STEP, DEVICE, tmp_path)._kernels(silent)
    others = {task: {name: values[-1] for name, values in task.space(DEVICE).items()} for task in TASKS}
    asked = [(ASKED, {}), (ASKED, others), (replace(ASKED, seed=1), {})]
    for number, (one, knobs) in enumerate(asked):
        compile_to(one, in_step.WithKnobs(kernels, knobs), str(tmp_path / str(number)))
    first, tuned, stranger = (in_step.Entrant(Artifact.load(tmp_path / str(n)), {}) for n in range(3))
    assert any((first.gradients[name] != some).any() for name, some in tuned.gradients.items()), "the same kernels"
    assert in_step._agree(tuned, first) and not in_step._agree(stranger, first)
    for name, gradient in tuned.gradients.items():
        tuned.gradients[name] = gradient * 1.1
        assert not in_step._agree(tuned, first), name
        tuned.gradients[name] = gradient * np.nan
        assert not in_step._agree(tuned, first), name
        tuned.gradients[name] = gradient
    first.gradients["bias"], tuned.gradients["bias"] = np.array([1e-9]), np.array([-1e-9])
    assert in_step._agree(tuned, first)


def test_an_end_of_time(runner: TrialRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tried(runner, max(TASKS, key=lambda t: max(map(len, t.space(DEVICE).values()), default=0)), 9)
    count = len(state.ranked()) - 1
    assert count > in_step.TOGETHER
    compiled = contest(monkeypatch, {})
    InStep(STEP, DEVICE, tmp_path)(runner, [state], silent, silent, time.monotonic())
    assert len(compiled) == 1 + in_step.TOGETHER + in_step.AGAIN


def test_an_earlier_winner_takes_part_again(
    runner: TrialRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not be among the fastest alone, and more trials do not forget it."""
    state = tried(runner, max(TASKS, key=lambda t: max(map(len, t.space(DEVICE).values()), default=0)), 7)
    slowest = state.ranked()[-1][1]
    runner.write_final(state, {slowest: 1.0, key_of(state.first): 2.0})
    state.final = {}
    assert key_of(finalists(state, 3)[0]) == slowest == state.winner
    again = runner.state(state.task)
    _recall(
        again,
        [*next(iter(read_log(tmp_path / DEVICE.record_folder).by_task().values())), Trial({"pixels": 9}, 0.1, False)],
    )
    assert again.winner == slowest and again.final == {}
    assert {"pixels": 9} not in finalists(again, 99)  # of another space
    contest(monkeypatch, {(state.task, slowest): 5.0})
    InStep(STEP, DEVICE, tmp_path)(runner, [state], silent, silent, None)
    assert key_of(state.best[0]) == slowest


def test_a_step_that_cannot_run_leaves_it_to_the_kernels(
    runner: TrialRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, said, decided = tried(runner, TASKS[0], 2), [], []
    monkeypatch.setattr(finals, "decide", lambda runner, state, patience: decided.append(state))
    broken = Step(LAYERS, partial(compile_to, replace(ASKED, what="nothing")))
    last = InStep(broken, DEVICE, tmp_path)
    last(runner, [state], silent, said.append, None)
    assert last.outcome is None and decided == [state]
    assert len(said) == 1 and "the default knobs could not be compiled: " in said[0] and "Traceback" not in said[0]


def test_functions_that_tasks_share_tell_nothing() -> None:
    a, b, c = TASKS[:3]
    layers = {
        "one": {"kernels": {"forward": {"function": "f"}, "backward_data": {"function": "g"}}},
        "two": {"kernels": {"forward": {"function": "f"}, "backward_data": {"function": "h"}}},
    }
    tasks = {("one", "forward"): a, ("two", "forward"): b, ("one", "backward_data"): c, ("two", "backward_data"): c}
    assert in_step.own_functions(layers, tasks) == {c: {"g", "h"}}


def test_layers_of_different_capacity(runner: TrialRunner, tmp_path: Path) -> None:
    """Their kernels are the same functions, so the step cannot tell them apart."""
    profile = tmp_path / "mixed.yaml"
    profile.write_text("scheme: block\nsparsity: 0.9\nlayers: {6.weight: {scheme: block, sparsity: 0.85}}\n")
    asked = replace(
        ASKED, what=str(Path(__file__).with_name("tiny_net.py")) + ":same", scheme=None, sparsity=None, profile=profile
    )
    layers = asked.layers()
    artifact = asked.compiled(probable)
    tasks = {
        (p, d): in_step.task_of(d, choice, layer.problem)
        for p, layer in layers.items()
        for d, choice in layer.choices.items()
    }
    entrant = in_step.Entrant(artifact, tasks)
    times, total = entrant.turn()
    assert 0 < sum(times.values()) < total
    assert set(times) < set(tasks.values())


def test_a_clock_lets_go_of_its_trainer_and_ctrl_c_through() -> None:
    trainer = Trainer(ASKED.compiled(probable))
    clock, gone = KernelClock(trainer), weakref.ref(trainer)
    assert sum(one.calls for one in clock.iteration().values()) > 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_clock, "perf_counter", lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            clock.iteration()
    del clock, trainer
    gc.collect()
    assert gone() is None


def test_real_steps_with_other_knobs(runner: TrialRunner, tmp_path: Path) -> None:
    """Two kernels get other knobs; the compiled steps have them, and agree."""
    states = [tried(runner, task, 1) for task in TASKS if str(task).startswith(("block_forward", "block_backward_w"))]
    last, said, done = InStep(Step(LAYERS, partial(compile_quickly, ASKED)), DEVICE, tmp_path), [], []
    steps: list[dict[str, object]] = []
    load = Artifact.load

    def loaded(path: Path) -> Artifact:
        artifact = load(path)
        steps.append({n: layer["kernels"] for n, layer in artifact.manifest["layers"].items()})
        return artifact

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_step, "Artifact", SimpleNamespace(load=loaded))
        for few in ("TURNS", "LIVES", "LAST_LIVES"):
            patch.setattr(in_step, few, 1)
        last(runner, states, done.append, said.append, None)
    assert said == [] and last.outcome.default_ms > 0 and len(done) >= 3
    default, other, *_ = steps
    differ = {
        (name, direction)
        for name, kernels in default.items()
        for direction, kernel in kernels.items()
        if kernel["knobs"] != other[name][direction]["knobs"]
    }
    assert {direction for _, direction in differ} == {"forward", "backward_weight"}
    assert all(s.final and s.best[1] > 0 for s in states)


def test_what_was_compared_replaces_the_default(runner: TrialRunner, tmp_path: Path) -> None:
    layer = next(one for one in LAYERS.values() if one.problem.sparse is not None)
    (choice,) = in_step.offered("forward", layer.problem, DEVICE)
    state = tried(runner, in_step.task_of("forward", choice, layer.problem), 1)
    found = Fastest(DEVICE, records=Records(DEVICE, tmp_path)).contestants("forward", layer.problem, [choice])
    assert [one.source for one in found] == ["default", "tuned"]  # only trials of a search
    (_, best), _ = state.ranked()
    runner.write_final(state, {best: 0.9, key_of(state.first): 1.0})
    (found,) = Fastest(DEVICE, records=Records(DEVICE, tmp_path)).contestants("forward", layer.problem, [choice])
    assert found.source == "tuned" and key_of({n: int(getattr(found.knobs, n)) for n in dict(best)}) == best
    more = local_cpu(2)
    if more.threads != DEVICE.threads:  # knobs for another number of threads were not compared
        layers = Asked(**{**ASKED.__dict__, "threads": 2}).layers()
        other = next(one for one in layers.values() if one.problem.sparse is not None)
        (choice,) = in_step.offered("forward", other.problem, more)
        found = Fastest(more, records=Records(more, tmp_path)).contestants("forward", other.problem, [choice])
        assert [one.source for one in found] == ["default", "tuned"]
