"""The harness: who runs when, with what, and what is known afterwards."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mest_compiler.bench.machine import available_cores
from mest_compiler.bench.rounds import Limits, Timing, fastest, interleave, turns
from mest_compiler.errors import BenchError

SHORT = Limits(build=30, ask=30, turn=0.02, patience=0)


def test_every_other_round_runs_in_reverse() -> None:
    assert turns("abc", 3) == list("abccbaabc")


def test_contestants_run_in_turn_and_alone(contestant, no_worker_left) -> None:
    steps: list[tuple[int, int, str]] = []
    timings = interleave(
        [contestant("quick", "Summer"), contestant("slow", "Summer", pause=0.01)],
        3,
        lambda *step: steps.append(step),
        limits=SHORT,
    )
    assert no_worker_left()
    assert list(timings) == ["quick", "slow"]
    assert [name for _, _, name in steps[:-1]] == ["quick", "slow", "slow", "quick", "quick", "slow"]
    assert [done for done, _, _ in steps] == list(range(7))
    assert all(len(timing.samples) == 3 for timing in timings.values())
    assert timings["slow"].median > 10 > timings["quick"].median
    assert timings["slow"].extra["min_ms"] <= min(timings["slow"].samples)
    assert all(repeats > 1 for repeats in timings["quick"].extra["repeats"])
    runs = sorted(tuple(run) for timing in timings.values() for run in timing.extra["result"]["intervals"])
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(runs))
    assert len({timing.extra["result"]["pid"] for timing in timings.values()}) == 2


def test_one_thread_means_one_core_and_the_same_for_all(contestant) -> None:
    timings = interleave([contestant("a", "Summer"), contestant("b", "Summer")], 1, limits=SHORT)
    (a, b) = (timing.extra["result"] for timing in timings.values())
    assert a["threads"] == b["threads"] == "11"
    assert a["cores"] == b["cores"]
    assert len(a["cores"]) == 1


@pytest.mark.skipif(available_cores() < 2, reason="one core only")
def test_two_threads_are_not_bound(contestant) -> None:
    said = interleave([contestant("a", "Summer", threads=2)], 1, limits=SHORT)["a"].extra["result"]
    assert said["threads"] == "22"
    assert len(said["cores"]) == available_cores()


def test_outputs_are_saved_before_the_first_run(contestant, tmp_path: Path) -> None:
    timings = interleave(
        [contestant("a", "Summer", count=5), contestant("b", "Bare")], 1, outputs=tmp_path, limits=SHORT
    )
    assert timings["a"].extra["outputs"] == str(tmp_path / "a.npz")
    assert np.load(timings["a"].extra["outputs"])["total"] == 10
    assert timings["a"].extra["result"]["runs_before_outputs"] == 0
    assert timings["b"].extra["outputs"] is None
    assert timings["b"].extra["result"] == {}


def test_peak_memory_is_the_contestants_own(contestant) -> None:
    ballast = np.ones(300 << 20, dtype=np.uint8)  # of this process: a child must not be charged for it
    timings = interleave([contestant("small", "Bare"), contestant("large", "Hungry", mebibytes=200)], 1, limits=SHORT)
    assert ballast[0] == 1
    small, large = (timings[name].extra["peak_rss_mb"] for name in ("small", "large"))
    assert small < 150
    assert 190 < large - small < 250


def test_median_and_spread() -> None:
    timing = Timing([4.0, 2.0, 3.0])
    assert timing.median == 3.0
    assert timing.spread == pytest.approx(2 / 3)
    assert timing.to_json() == {
        "median_ms": 3.0, "spread": timing.spread, "counted": 3, "samples_ms": [4.0, 2.0, 3.0],
    }  # fmt: skip


def test_calm_rounds_count_and_of_slowed_ones_the_fewest_and_calmest() -> None:
    calm = Timing([9.0, 1.0, 2.0, 3.0, 4.0, 0.1], {"slowed": [1.6, 1.0, 1.1, 1.0, 1.05, 1.3]})
    assert calm.counted == [1.0, 3.0, 4.0, 2.0]
    assert (calm.median, calm.spread) == (2.5, 3.0 / 2.5)
    busy = Timing([9.0, 1.0, 8.0, 7.0], {"slowed": [1.2, 1.7, 1.0, 1.5]})
    assert busy.counted == [8.0, 9.0, 7.0]
    assert busy.to_json()["counted"] == 3
    assert Timing([5.0, 6.0], {"slowed": [1.0, 2.0]}).counted == [5.0, 6.0]
    many = Timing([float(i) for i in range(20)], {"slowed": [1.0, *(2.0 + i for i in range(19))]})
    assert many.counted == [float(i) for i in range(8)]


def test_the_fastest_of_a_family_by_median() -> None:
    timings = {"sparse": Timing([1.0]), "torch_a": Timing([1.0, 5.0, 5.0]), "torch_b": Timing([4.0])}
    assert fastest(timings, "torch") == "torch_b"
    with pytest.raises(BenchError, match="no contestant's name begins with 'tvm'; there are: sparse, torch_a"):
        fastest(timings, "tvm")


def test_descriptions_that_make_no_comparison(contestant) -> None:
    a = contestant("a", "Bare")
    with pytest.raises(BenchError, match="names of their own, and these are: a, a"):
        interleave([a, a], 1)
    with pytest.raises(BenchError, match="at least one round, not 0"):
        interleave([a], 0)
    with pytest.raises(BenchError, match="cannot have 1000 threads on"):
        interleave([contestant("b", "Bare", threads=1000)], 1)
