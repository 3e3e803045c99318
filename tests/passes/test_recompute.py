"""The path of schedules that a limit is sought on, and what is written down of them."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F

from mest_compiler.devices import local_cpu
from mest_compiler.errors import MemoryLimitError
from mest_compiler.frontend import TrainingGraph, trace
from mest_compiler.passes import fit_memory
from mest_compiler.passes.dataflow import Dataflow, Schedule, StepKind
from mest_compiler.passes.fit_memory import Fitted, Fitter, host_bytes
from mest_compiler.passes.options import StepOptions
from mest_compiler.passes.pipeline import tile
from mest_compiler.passes.program import Program
from mest_compiler.passes.recompute import Recompute, cheapest_first, narrowable, price, trimmed
from mest_compiler.passes.step_program import StepProgram

from .programs import kernel_calls
from .test_fuse_normalise import Net
from .test_lowered_steps import RULE, plan

BATCH = 16
DEVICE = local_cpu(1)


def blocks(x, c, n):
    """Two blocks as in a residual network."""
    x = F.relu(n[0](x))
    x = F.relu(n[2](c[1](F.relu(n[1](c[0](x))))) + x)
    return F.relu(n[4](c[3](F.relu(n[3](c[2](x))))) + x)


@cache
def traced() -> TrainingGraph:
    """The step of a small network."""
    torch.manual_seed(0)
    return trace(Net(blocks, 4, 5), torch.zeros(BATCH, 3, 8, 8))


@cache
def tiled() -> StepProgram:
    """The same as kernels; nobody may change it."""
    return tile(traced(), plan(traced(), "block"), DEVICE)


@cache
def flow() -> Dataflow:
    """Its kernels, read."""
    return Dataflow(Program.of(tiled().module["step"]), tiled().repeats, tiled().flops)


@cache
def path(narrow: bool) -> list[Schedule]:
    """All of its schedules."""
    return list(cheapest_first(flow(), narrowable(flow(), DEVICE) if narrow else frozenset()))


@pytest.mark.parametrize("narrow", [False, True])
def test_the_path_begins_with_nothing_repeated_and_falls(narrow: bool) -> None:
    first, *others = path(narrow)
    assert others and not first.dropped and bool(first.packed) is narrow
    for one, following in zip(path(narrow), others, strict=False):
        assert following.peak < one.peak
        assert one.dropped < following.dropped and len(following.dropped) == len(one.dropped) + 1


def test_a_schedule_is_found_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, schedule = [], Dataflow.schedule
    monkeypatch.setattr(Dataflow, "schedule", lambda *args: tried.append(args) or schedule(*args))
    found = cheapest_first(flow(), frozenset())
    assert not next(found).dropped and len(tried) == 1
    next(found)
    so_far = len(tried)
    assert list(found) and len(tried) > so_far


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("at", [0, 1, -1])
def test_what_is_written_down_is_the_schedule(narrow: bool, at: int) -> None:
    schedule = path(narrow)[at]
    before, after = (kernel_calls(m, "step") for m in (tiled().module, Recompute(DEVICE, schedule)(tiled().module)))
    kinds = [step.kind for step in schedule.steps]
    assert after.total() - before.total() == len(kinds) - kinds.count(StepKind.FIRST)
    assert sum(after[n] for n in after if "pack" in n) == kinds.count(StepKind.PACK) + kinds.count(StepKind.UNPACK)
    assert kinds.count(StepKind.PACK) == len(schedule.packed)
    assert (kinds.count(StepKind.AGAIN) > 0) is bool(schedule.dropped)


@pytest.mark.parametrize("narrow", [False, True])
def test_trimming_spares_work_and_stays_under_the_peak(narrow: bool) -> None:
    first, *_, last = path(narrow)
    for one in path(narrow)[1:]:
        same = trimmed(one, one.peak)
        assert same.dropped <= one.dropped and same.peak <= one.peak and price(same) <= price(one)
    assert price(trimmed(last, first.peak)) <= price(first)  # all the room there is


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> list[StepProgram]:
    """The steps that are written down from here on."""
    found, finish = [], fit_memory.finish
    monkeypatch.setattr(fit_memory, "finish", lambda *args: found.append(finish(*args)) or found[-1])
    return found


def fitted(limit: int | None) -> Fitted:
    """The step under a limit, in one micro-batch."""
    options = StepOptions(memory_limit=limit, micro_batch=BATCH)
    return Fitter(plan(traced(), "block"), RULE, DEVICE, options).fit(traced(), BATCH, lambda _: traced())


def host() -> int:
    """Bytes of a limit that are left to the host."""
    return host_bytes(len(traced().parameters))


def test_no_limit_and_a_large_one_repeat_nothing(finished: list[StepProgram]) -> None:
    peak = fitted(None).peak
    found = fitted(peak + host())
    assert found.peak == peak and not found.schedule.dropped
    assert len(finished) == 2


def test_a_limit_takes_the_first_that_fits(finished: list[StepProgram]) -> None:
    found = fitted(fitted(None).peak + host() - 1)
    assert found.schedule.dropped == path(False)[1].dropped
    assert len(finished) == 4  # the two plans without repetitions, the first with one, and it trimmed: a byte too much


def test_an_impossible_limit_tries_the_last_only(finished: list[StepProgram]) -> None:
    with pytest.raises(MemoryLimitError) as caught:
        fitted(1)
    assert len(finished) == 2
    found = fitted(caught.value.smallest)
    assert found.peak + host() == caught.value.smallest and found.schedule.dropped <= path(False)[-1].dropped
