"""How tunings went: the best time so far after each trial of a task, from its log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from mest_compiler.files import write_png

from .database import Log, Trial, fastest, standing
from .tasks import task_from


@dataclass(frozen=True)
class Curve:
    """One task's. default, best: seconds of the default and of the best knobs, by the last comparison where there was
    one. bests: those of the best right candidate after each trial of the search, None before there is one."""

    title: str
    default: float | None
    best: float | None
    bests: list[float | None]
    failed: int
    knobs: Mapping[str, int]


def curves_of(log: Log) -> list[Curve]:
    """A curve for each task with trials, the slowest default first."""
    threads = {str(said["device"].get("threads")) for said in log.tasks.values()}
    curves = []
    for place, some in log.by_task().items():
        said = log.tasks[place]
        title = str(task_from(json.loads(said["task"])))
        if len(threads) > 1:
            title += f" ({said['device'].get('threads')} threads)"
        curves.append(curve(title, some))
    return sorted(curves, key=lambda c: -(c.default or 0.0))


def curve(title: str, trials: Sequence[Trial]) -> Curve:
    """The curve of a task's trials in order."""
    searched = [trial for trial in trials if not trial.again]
    bests = [found and found.seconds for found in accumulate(searched, lambda a, b: fastest([a, b]) or a)]
    stand = standing(trials)
    default, best = next((t.seconds for t in stand if t.first), None), fastest(stand)
    failed = sum(t.seconds is None for t in searched)
    return Curve(title, default, best and best.seconds, bests, failed, {} if best is None else best.knobs)


def plot_curves(path: Path, curves: Sequence[Curve], title: str) -> None:
    """Best time in parts of the default's against trials, a line a task, as PNG."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10, 6.5), layout="constrained")
    axes = canvas.add_subplot()
    axes.axhline(1, color="black", linestyle="--", linewidth=1)
    for one in curves:
        known = [(i, s) for i, s in enumerate(one.bests, 1) if s is not None]
        measured = next((s for s in one.bests if s is not None), None)  # the default's, as the search saw it
        if one.default is None or measured is None:
            continue
        label = f"{one.title}: {1e3 * one.default:.3f} → {1e3 * one.best:.3f} ms"
        axes.step([i for i, _ in known], [s / measured for _, s in known], where="post", label=label)
    axes.set_xlabel("trials of the task")
    axes.set_ylabel("best time, of the default knobs' time")
    axes.set_title(title, loc="left")
    axes.legend(fontsize=7, ncols=1 if len(curves) < 12 else 2, loc="upper right")
    write_png(path, canvas, 120)
