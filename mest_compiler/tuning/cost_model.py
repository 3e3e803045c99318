"""The cost model: XGBoost on a candidate's knobs and its task's shape, so that tasks learn from each other.

MetaSchedule's own model describes loop nests, which say nothing of a generator's knobs, and fits ten thousand trees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import log2
from statistics import mean

import numpy as np
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from mest_compiler.kernels.families import FAMILIES
from mest_compiler.kernels.problem import DIRECTIONS

from .knobs import Knobs, read
from .tasks import Task

PARAMETERS = {
    "objective": "reg:squarederror", "max_depth": 6, "eta": 0.15, "min_child_weight": 1, "subsample": 0.8,
    "colsample_bytree": 0.8, "nthread": 1, "verbosity": 0,
}  # fmt: skip
TREES = 120


class Ranking:
    """Predicts how fast candidates are beside the best of their task: 1 as fast, 0 useless.

    names: of the knobs that there are in any task.
    """

    def __init__(self, names: Sequence[str], seed: int = 1) -> None:
        self.names, self.seed = list(names), seed
        self._rows: dict[Task, list[np.ndarray]] = {}
        self._seconds: dict[Task, list[float | None]] = {}
        self._booster = None

    @property
    def trials(self) -> int:
        """How many it has learned from."""
        return sum(len(rows) for rows in self._rows.values())

    def learn(self, task: Task, tried: Sequence[tuple[Knobs, float | None]]) -> None:
        """Takes in trials of a task: knobs and seconds, None where the candidate failed."""
        self._rows.setdefault(task, []).extend(self.row(task, knobs) for knobs, _ in tried)
        self._seconds.setdefault(task, []).extend(seconds for _, seconds in tried)
        self._booster = None

    def scores(self, task: Task, candidates: Sequence[Knobs]) -> np.ndarray:
        """float64 [candidates]: predictions; nothing may be known yet, and then they are all the same."""
        if not candidates or not self.trials:
            return np.full(len(candidates), 0.5)
        import xgboost

        if self._booster is None:
            rows = np.stack([row for some in self._rows.values() for row in some])
            data = xgboost.DMatrix(rows, np.array([s for task in self._rows for s in self._shares(task)], np.float32))
            self._booster = xgboost.train({**PARAMETERS, "seed": self.seed}, data, TREES)
        found = self._booster.predict(xgboost.DMatrix(np.stack([self.row(task, knobs) for knobs in candidates])))
        return np.clip(found.astype("float64"), 0.0, None)

    def _shares(self, task: Task) -> list[float]:
        """What is to be predicted: the best time of the task over each one."""
        seconds = self._seconds[task]
        best = min((s for s in seconds if s is not None), default=1.0)
        return [0.0 if s is None else best / s for s in seconds]

    def row(self, task: Task, knobs: Knobs) -> np.ndarray:
        """float32 [features]: logarithms of the knobs, of the products of two of them, and of the shape."""
        logs = [log2(1 + knobs[name]) if name in knobs else -1.0 for name in self.names]
        products = [a + b for i, a in enumerate(logs) for b in logs[:i]]
        return np.array([*logs, *products, *shape_features(task)], np.float32)


@lru_cache(maxsize=256)
def shape_features(task: Task) -> tuple[float, ...]:
    """Numbers that say what a task is."""
    g = task.problem.geometry
    sizes = (g.channels, g.filters, g.y.height, g.y.width, g.taps, g.stride[0], g.tiles, g.lanes, g.groups)
    logs = (log2(n) for n in (*sizes, task.problem.held_shape[0], task.problem.forward_multiplications))
    return (DIRECTIONS.index(task.direction), list(FAMILIES).index(task.family), *logs)


@derived_object
class CostModel(ms.cost_model.PyCostModel):
    """MetaSchedule's door to a `Ranking`. tasks: by the names of their contexts. warm_up: trials below which it is
    asked for nothing but random numbers."""

    def __init__(self, ranking: Ranking, tasks: Mapping[str, Task], warm_up: int) -> None:
        super().__init__()
        self.ranking, self.tasks, self.warm_up = ranking, dict(tasks), warm_up
        self.random = np.random.default_rng(ranking.seed)

    def load(self, path: str) -> None:
        """Nothing: it learns from the database."""

    def save(self, path: str) -> None:
        """Nothing: the database has all that it knows."""

    def update(
        self, context: ms.TuneContext, candidates: list[ms.MeasureCandidate], results: list[ms.runner.RunnerResult]
    ) -> None:
        """See MetaSchedule's `CostModel`."""
        tried = [
            (read(c.sch.mod), mean(float(s) for s in r.run_secs) if r.run_secs else None)
            for c, r in zip(candidates, results, strict=True)
        ]
        self.ranking.learn(self.tasks[str(context.task_name)], tried)

    def predict(self, context: ms.TuneContext, candidates: list[ms.MeasureCandidate]) -> np.ndarray:
        """See MetaSchedule's `CostModel`."""
        if self.ranking.trials < self.warm_up:
            return self.random.uniform(size=len(candidates))
        return self.ranking.scores(self.tasks[str(context.task_name)], [read(c.sch.mod) for c in candidates])
