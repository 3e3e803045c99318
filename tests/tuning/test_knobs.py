"""Knobs of every generator: written on a task's definition and read back, and right whatever they are set to."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from tvm.s_tir import Schedule

from mest_compiler.devices import CpuProfile
from mest_compiler.kernels.problem import DIRECTIONS, LayerProblem
from mest_compiler.runtime.hosts import LocalHost
from mest_compiler.tuning import knobs as knob
from mest_compiler.tuning.definitions import workload
from mest_compiler.tuning.measure import Bench
from mest_compiler.tuning.search import untried
from mest_compiler.tuning.tasks import Task, offered, task_from, task_of, tasks_of_layer
from mest_compiler.tuning.trial_runner import TaskState

from ..schedules.convolutions import Conv
from ..schedules.sparse_layers import fitted, sparse_conv, with_capacity
from ..schedules.tiles import NARROW, WIDE, compile_kernels, profile, vector
from ..whole_step.cases import unoptimised

CONV = Conv(5, 6, (5, 6), batch=9)
KINDS = ("unstructured", "block", "block:1x4", "pattern", "channel", "filter", "dense")


def tasks(scheme: str, bits: int = NARROW, conv: Conv = CONV) -> list[Task]:
    """All tasks of a small layer, half of whose units are kept."""
    vec = vector(bits, "float32")
    if scheme == "dense":
        return list(tasks_of_layer(LayerProblem(conv.geometry(vec)), profile(bits)))
    whole = sparse_conv(fitted(conv, scheme), vec, scheme, spare=0)
    return list(tasks_of_layer(with_capacity(whole, max(1, whole.sparse.capacity // 2)), profile(bits)))


def state(task: Task, bits: int) -> TaskState:
    return TaskState(task, workload(task, profile(bits)), task.space(profile(bits)))


LIKE_OTHERS = ("block:1x4", "filter")
QUICK = [pytest.param(kind, marks=pytest.mark.slow if kind in LIKE_OTHERS else ()) for kind in KINDS]


@pytest.mark.parametrize("scheme", QUICK)
def test_knobs_come_back(scheme: str) -> None:
    device = profile(WIDE)
    for task in tasks(scheme, WIDE):
        one, choice = state(task, WIDE), task.default(device)
        assert {name: int(getattr(choice.knobs, name)) for name in one.space} == one.first
        assert task.allows(device, one.first)
        for knobs in (one.first, {name: values[-1] for name, values in one.space.items()}):
            sch = knob.scheduled(one.module, one.space, knobs)
            assert knob.read(sch.mod) == knobs
            trace = json.loads(json.dumps(_plain(sch.trace.as_json())))
            assert knob.of_trace(trace) == (knobs, knobs == one.first)
            again = Schedule(one.module)
            sch.trace.apply_to_schedule(again, remove_postproc=False)
            assert knob.read(again.mod) == knobs
            remade = choice.with_knobs(**knobs)
            assert {name: getattr(remade.knobs, name) for name in knobs} == knobs
            assert remade.with_knobs(**one.first).knobs == choice.knobs
            assert remade.make().attrs["global_symbol"] == choice.make().attrs["global_symbol"]


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float) else value.value  # TVM's own numbers


def check_any_knobs(scheme: str, count: int) -> None:
    """So many knobs of each task, drawn at random."""
    device = profile(NARROW)
    for number, task in enumerate(tasks(scheme)):
        bench, default = Bench(task, device, LocalHost(device)), task.default(device)
        drawn = [knobs for _, knobs in islice(untried(state(task, NARROW), device, number), count)]
        choices = {str(k): default.with_knobs(**k) for k in drawn}
        for what, kernel in compile_kernels({k: c.make() for k, c in choices.items()}).items():
            args, out = bench.arguments(choices[what])
            kernel(*args)
            np.testing.assert_array_equal(out.numpy(), bench.expected(), err_msg=f"{task}: {what}")


@pytest.mark.parametrize("scheme", QUICK)
def test_any_knobs_compute_the_same(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuProfile, "target", property(unoptimised))  # of the definitions
    check_any_knobs(scheme, 1)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", KINDS)
def test_more_knobs_compute_the_same(scheme: str) -> None:
    check_any_knobs(scheme, 3)


def test_a_task_is_what_its_key_says() -> None:
    for scheme in KINDS:
        for task in tasks(scheme):
            assert task_from(json.loads(task.key)) == task
            assert task.default(profile(NARROW)).kernel == task.kernel


def test_neighbours_and_kept_zeros_make_no_other_task() -> None:
    device, layer = profile(NARROW), sparse_conv(CONV, vector(NARROW, "float32"), "unstructured", spare=0)
    g = layer.geometry
    wider = replace(layer, geometry=replace(g, x=replace(g.x, border=3), y=replace(g.y, border=2)))
    fewer = with_capacity(layer, layer.sparse.capacity // 2)
    for direction in DIRECTIONS:
        own, zeros = offered(direction, layer, device)[-1], offered(direction, layer, device)[0]
        assert (own.family == "zeros") != (zeros.family == "zeros")
        own, zeros = (own, zeros) if zeros.family == "zeros" else (zeros, own)
        assert task_of(direction, own, wider) == task_of(direction, own, layer) != task_of(direction, own, fewer)
        assert task_of(direction, zeros, fewer) == task_of(direction, zeros, LayerProblem(g))
        assert task_of(direction, zeros, LayerProblem(g)).problem.sparse is None


def test_mutation_changes_one_knob() -> None:
    (task, *_), mutate = tasks("block"), knob.MutateKnob()
    one = state(task, NARROW)
    trace = knob.scheduled(one.module, one.space, one.first).trace
    for _ in range(8):
        changed = Schedule(one.module)
        mutate.apply(trace).apply_to_schedule(changed, remove_postproc=False)
        found = knob.read(changed.mod)
        assert sum(found[name] != one.first[name] for name in one.space) == 1
