"""Turns are taken while nothing else slows the cores, and taken again where something did."""

import os
import time
from dataclasses import replace

import pytest

from mest_compiler import pace
from mest_compiler.bench import rounds
from mest_compiler.bench.rounds import Limits, interleave

cores_can_be_chosen = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no core can be chosen here")


@pytest.fixture(autouse=True)
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it waits, unlike in all other tests."""
    monkeypatch.delenv(pace.WAIT)


def test_a_user_may_forbid_to_wait(contestant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pace.WAIT, "0")
    monkeypatch.setattr(pace, "first_look", lambda: pytest.fail("it waits"))
    assert pace.Pacer(fastest={"0": 1e-6}).takes(lambda: 1) == [1]
    timing = interleave([contestant("a", "Bare")], 1, limits=Limits(build=30, ask=30, turn=0.02))["a"]
    assert (timing.extra["again"], len(timing.samples)) == (0, 1)


def test_where_no_core_may_be_chosen_nothing_is_slowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
    assert pace.calm({"0": 1.0}, 10) == ({}, 0.0)


@cores_can_be_chosen
def test_every_core_beats_and_the_thread_may_go_where_it_could() -> None:
    allowed = os.sched_getaffinity(0)
    found = pace.beats()
    assert set(found) == {str(core) for core in sorted(allowed)[-pace.MOST_CORES :]}
    assert all(ms > 0 for ms in found.values())
    assert os.sched_getaffinity(0) == allowed


def test_the_slowest_core_counts_and_the_shortest_beat_is_remembered() -> None:
    fastest = {"0": 1.0, "1": 2.0}
    assert pace.slowed({"0": 1.1, "1": 3.0}, fastest) == 1.5
    assert pace.slowed({"7": 3.0}, fastest) == pace.slowed({}, fastest) == 1.0
    pace.learn(fastest, {"1": 1.5, "0": 4.0, "2": 1.0})
    assert fastest == {"0": 1.0, "1": 1.5, "2": 1.0}


def test_it_waits_for_calm_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = iter([2.0, 1.5, 1.1, 9.0])
    monkeypatch.setattr(pace, "beats", lambda: {"0": next(lengths)})
    found, waited = pace.calm({"0": 1.0}, 10)
    assert found == {"0": 1.1} and waited > 0
    monkeypatch.setattr(pace, "beats", lambda: {"0": 2.0})
    begin = time.monotonic()
    assert pace.calm({"0": 1.0}, 0.05)[0] == {"0": 2.0}
    assert pace.calm({"0": 2.0}, 10) == ({"0": 2.0}, 0.0)
    assert time.monotonic() - begin < 5


def test_a_slowed_turn_is_taken_again_until_patience_ends(contestant, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = Limits(build=30, ask=30, turn=0.02, patience=0.2)
    monkeypatch.setattr(pace, "first_look", lambda: {str(core): 1e-6 for core in range(os.cpu_count() or 1)})
    found = interleave([contestant("a", "Bare")], 2, limits=patient)["a"]
    assert len(found.samples) == 2 and all(ratio > pace.SLOWED for ratio in found.extra["slowed"])
    monkeypatch.setattr(rounds, "MOST_WAIT_S", 0.1)
    shares = interleave([contestant("a", "Bare"), contestant("b", "Bare")], 1, limits=replace(patient, patience=60))
    assert all(timing.extra["slowed"][0] > pace.SLOWED for timing in shares.values())
    monkeypatch.setattr(pace, "first_look", lambda: {str(core): 1e6 for core in range(os.cpu_count() or 1)})
    monkeypatch.setattr(pace, "learn", lambda *_: None)
    found = interleave([contestant("a", "Bare")], 2, limits=patient)["a"]
    assert found.extra["again"] == 0 and all(ratio < 1 for ratio in found.extra["slowed"])


def test_a_pacer_measures_again_until_it_is_calm_or_has_no_patience_left(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = iter([1.0, 2.0, 1.0, 1.0])  # calm before, slowed after; then calm
    monkeypatch.setattr(pace, "IDLE_S", 0.0)
    monkeypatch.setattr(pace, "beats", lambda: {"0": next(lengths)})
    taken = iter("abc")
    pacer = pace.Pacer(60.0, {"0": 1.0})
    assert pacer.takes(lambda: next(taken)) == ["a", "b"]
    assert 59 < pacer.patience < 60
    monkeypatch.setattr(pace, "beats", lambda: {"0": 2.0})
    assert pacer.takes(lambda: "slowed", most=0.05)[-1] == "slowed"
    assert 59 < pacer.patience < 60
    pacer.patience = 0.0
    assert pacer.takes(lambda: "once") == ["once"]


def test_a_pacer_learns_shorter_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "first_look", lambda: {"0": 2.0})
    monkeypatch.setattr(pace, "beats", lambda: {"0": 1.0})
    pacer = pace.Pacer()
    assert pacer.takes(lambda: 1) == [1] and pacer.fastest == {"0": 1.0}
