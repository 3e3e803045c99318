"""The cost model ranks candidates, curves say how a tuning went, and ranks are compared as statistics books do."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mest_compiler.tuning.check import spearman
from mest_compiler.tuning.cost_model import Ranking
from mest_compiler.tuning.curves import curve, plot_curves
from mest_compiler.tuning.database import Trial

from .test_knobs import tasks

TASKS = tasks("block")


def seconds(knobs: dict[str, int]) -> float:
    """A time as it could be: worse away from eight accumulators, and with more groups."""
    return 1e-3 * (1 + abs(math.log2(knobs["pixels"] * knobs["planes"] / 8)) + 0.1 * knobs["groups"])


def test_it_ranks_what_it_has_not_seen() -> None:
    every = [{"pixels": p, "planes": n, "groups": g} for p in (1, 2, 4, 8, 16) for n in (1, 2, 4) for g in (1, 2, 4, 8)]
    order = np.random.default_rng(0).permutation(len(every))
    seen, unseen = ([every[i] for i in part] for part in (order[:30], order[30:]))
    model = Ranking(["pixels", "planes", "groups"])
    assert set(model.scores(TASKS[0], unseen)) == {0.5}  # it knows nothing yet
    model.learn(TASKS[0], [(knobs, seconds(knobs)) for knobs in seen])
    model.learn(TASKS[1], [(knobs, None) for knobs in seen])  # another task, all of whose candidates fail
    assert spearman(model.scores(TASKS[0], unseen), [-seconds(k) for k in unseen]) > 0.8
    assert model.scores(TASKS[1], unseen).max() < model.scores(TASKS[0], unseen).max() / 2


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3], [10, 20, 900]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 2, 4], [1, 3, 2, 4]) == pytest.approx(0.9486833)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_a_curve_falls(tmp_path: Path) -> None:
    trials = [
        Trial({"a": 0}, None, False),
        Trial({"a": 1}, 2.0, True),
        Trial({"a": 2}, 3.0, False),
        Trial({"a": 3}, 1.0, False),
    ]
    one = curve("task", trials)
    assert (one.bests, one.default, one.best, one.failed) == ([None, 2.0, 2.0, 1.0], 2.0, 1.0, 1)
    assert one.knobs == {"a": 3}
    plot_curves(tmp_path / "curve.png", [one], "title")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
