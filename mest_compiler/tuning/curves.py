"""How tunings went: the best time so far after each trial of a task, from its log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .database import Log, Trial
from .tasks import task_from


@dataclass(frozen=True)
class Curve:
    """One task's. bests: seconds of the best right candidate after each trial, None before there is one."""

    title: str
    default: float | None
    bests: list[float | None]
    failed: int
    knobs: Mapping[str, int]

    @property
    def best(self) -> float | None:
        """Of all trials."""
        return self.bests[-1] if self.bests else None


def curves_of(log: Log) -> list[Curve]:
    """A curve for each task with trials, the slowest default first."""
    trials: dict[int, list[Trial]] = {}
    for place, trial in log.trials:
        trials.setdefault(place, []).append(trial)
    threads = {str(said["device"].get("threads")) for said in log.tasks.values()}
    curves = []
    for place, some in trials.items():
        said = log.tasks[place]
        title = str(task_from(json.loads(said["task"])))
        if len(threads) > 1:
            title += f" ({said['device'].get('threads')} threads)"
        curves.append(curve(title, some))
    return sorted(curves, key=lambda c: -(c.default or 0.0))


def curve(title: str, trials: Sequence[Trial]) -> Curve:
    """The curve of a task's trials in order."""
    bests: list[float | None] = []
    best: Trial | None = None
    for trial in trials:
        if trial.seconds is not None and (best is None or trial.seconds < best.seconds):
            best = trial
        bests.append(None if best is None else best.seconds)
    default = next((t.seconds for t in trials if t.first), None)
    failed = sum(t.seconds is None for t in trials)
    return Curve(title, default, bests, failed, {} if best is None else best.knobs)


def plot_curves(path: Path, curves: Sequence[Curve], title: str) -> None:
    """Best time in parts of the default's against trials, a line a task, as PNG."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10, 6.5), layout="constrained")
    axes = canvas.add_subplot()
    axes.axhline(1, color="black", linestyle="--", linewidth=1)
    for one in curves:
        known = [(i, s) for i, s in enumerate(one.bests, 1) if s is not None]
        if one.default is None or not known:
            continue
        label = f"{one.title}: {1e3 * one.default:.3f} → {1e3 * one.best:.3f} ms"
        axes.step([i for i, _ in known], [s / one.default for _, s in known], where="post", label=label)
    axes.set_xlabel("trials of the task")
    axes.set_ylabel("best time, of the default knobs' time")
    axes.set_title(title, loc="left")
    axes.legend(fontsize=7, ncols=1 if len(curves) < 12 else 2, loc="upper right")
    canvas.savefig(path, format="png", dpi=120)
