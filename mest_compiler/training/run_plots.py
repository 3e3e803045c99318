"""Pictures of training runs: their curves by epoch, and the images that a run forgot least and most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from mest_compiler.files import write_png
from mest_compiler.losses.base import ACCURACY, ERROR
from mest_compiler.training.forgotten import Forgotten
from mest_compiler.training.run_reading import RunLog, described
from mest_compiler.training.scores import best_of, score_text

FEW = 40
"""Up to so many epochs each has a dot."""
FAINT = 0.45
"""Opacity of the second line of a panel."""
ACROSS = 10
"""Images in a row of a sheet."""
HISTOGRAM_INCHES = 3.2
STEEP = 10
"""A loss, or a histogram, whose largest value is so many times its smallest gets a logarithmic axis."""


def plot_runs(path: Path, runs: Sequence[RunLog]) -> None:
    """Loss, score, sparsity with its mutations, and training examples by epoch, as PNG; at least one run, all of one
    metric.

    One run has its description as the title, several have it in a legend.
    """
    canvas = Canvas(figsize=(13, 9), layout="constrained")
    canvas.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    grid = canvas.add_gridspec(2, 2, height_ratios=[4, 5])
    loss, score, examples = (canvas.add_subplot(grid[place]) for place in ((0, 0), (0, 1), (1, 1)))
    below = grid[1, 0].subgridspec(2, 1, height_ratios=[3, 2])
    sparsity, changed = canvas.add_subplot(below[0]), canvas.add_subplot(below[1])
    metric, lines = runs[0].metric, []
    scale, unit = (100, ", %") if metric == ACCURACY else (1, "")
    for number, run in enumerate(runs):
        records, style = run.records, _style(number, len(run.records))
        faint = style | {"linewidth": 1, "alpha": FAINT, "marker": ""}
        epochs = [record.epoch for record in records]
        lines += loss.plot(epochs, [record.loss for record in records], **style)
        score.plot(epochs, [scale * record.test_score for record in records], **style)
        score.plot(epochs, [scale * record.train_score for record in records], **faint)
        if any(record.kept for record in records):
            sparsity.plot(epochs, [100 * record.sparsity for record in records], **style)
        examples.plot(epochs, [record.examples for record in records], **style)
        if run.recipe.rule_of_loss.labelled:
            examples.plot(epochs, [record.unforgettable for record in records], **faint)
        # Side by side, so that runs that mutate at the same time can be told apart.
        shift = 0.12 * (number - (len(runs) - 1) / 2)
        for sign, mark, what in ((1, "^", "grown"), (-1, "v", "removed")):
            some = {record.epoch + shift: sign * getattr(record, what) for record in records if getattr(record, what)}
            changed.vlines(list(some), 0, list(some.values()), color=style["color"], linewidth=1)
            changed.plot(list(some), list(some.values()), mark, color=style["color"], markersize=5)
    _panel(loss, "training loss")
    _falling_axis(loss, [record.loss for run in runs for record in run.records])
    _panel(score, f"{metric}{unit}", ("test", "-", "."), ("training", "-", ""))
    if metric == ERROR:
        every = [record for run in runs for record in run.records]
        _falling_axis(score, [one for record in every for one in (record.test_score, record.train_score)])
    _panel(sparsity, "zeros, % of the sparse layers' weights")
    counted = [("unforgettable", "-", "")] if any(run.recipe.rule_of_loss.labelled for run in runs) else []
    _panel(examples, "training examples", ("trained on", "-", "."), *counted)
    examples.set_ylim(bottom=0)
    _panel(changed, "weights grown (up) and removed (down) by mutations")
    changed.axhline(0, color="black", linewidth=0.8)
    changed.set_xlim(loss.get_xlim())
    sparsity.set_xlim(loss.get_xlim())
    if not sparsity.lines:
        _say_none(sparsity, "no sparse layers")
    if not any(run.mutations for run in runs):
        _say_none(changed, "no mutation yet" if any(run.recipe.mutates for run in runs) else "no mutations")
    if len(runs) == 1:
        (run,) = runs
        for epoch in run.mutations:
            for axes in (loss, score, sparsity):
                axes.axvline(epoch, color="C3", linestyle=":", linewidth=1)
        marks = "; dotted: a mutation after this epoch" if run.mutations else ""
        canvas.suptitle(f"{_plain(described(run.recipe))}\n{_state(run)}{marks}", fontsize=11)
    else:
        words = [f"{_plain(run.path)}: {_plain(described(run.recipe))}; {_state(run)}" for run in runs]
        canvas.legend(lines, words, loc="outside lower center", fontsize=8)
    write_png(path, canvas, 130)


def _style(number: int, epochs: int) -> dict[str, str]:
    """How the lines of one of several runs look."""
    return {
        "color": f"C{number % 10}",
        "linestyle": ("-", "--", "-.", ":")[number // 10 % 4],
        "marker": "." if epochs <= FEW else "",
    }


def _state(run: RunLog) -> str:
    done = len(run.records)
    said = f"{done} epochs" if run.finished else f"{done} of {run.recipe.epochs} epochs"
    best = best_of(run.metric, (record.test_score for record in run.records))
    return f"{said}, {run.records[-1].test_text}, at best {score_text(run.metric, best)}"


def _panel(axes: Axes, title: str, *kinds: tuple[str, str, str]) -> None:
    """Title and axes of a panel; kinds: (what, line style, marker) of its lines, the first as it is, others faint."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.3)
    handles = [
        Line2D([], [], color="black", linestyle=line, marker=marker, alpha=FAINT if number else 1, label=what)
        for number, (what, line, marker) in enumerate(kinds)
    ]
    if handles:
        axes.legend(handles=handles, fontsize=8)


def _falling_axis(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic, with plain numbers, where a loss or an error falls far."""
    if min(values) > 0 and max(values) > STEEP * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _say_none(axes: Axes, sentence: str) -> None:
    axes.text(0.5, 0.5, sentence, transform=axes.transAxes, ha="center", va="bottom", color="gray")
    axes.set_yticks([])


def plot_forgetting(path: Path, forgotten: Forgotten, images: dict[int, np.ndarray], shown: int, title: str) -> None:
    """The `shown` images that were forgotten least, those that were forgotten most, and how often all were, as PNG.

    images: float [C, H, W] by number in the training set, of all that are shown; each is scaled by itself.
    """
    sheets = (
        ("forgotten least (label: times forgotten)", forgotten.least(shown)),
        ("forgotten most (label: times forgotten)", forgotten.most(shown)),
    )
    heights = [1.25 * math.ceil(max(len(ids), 1) / ACROSS) + 0.3 for _, ids in sheets]
    canvas = Canvas(figsize=(11, sum(heights) + HISTOGRAM_INCHES + 0.6), layout="constrained")
    *places, below = canvas.subplots(3, 1, height_ratios=[*heights, HISTOGRAM_INCHES])
    for axes, (heading, ids) in zip(places, sheets, strict=True):
        _sheet(axes, heading, ids, forgotten, images)
    _histogram(below, forgotten)
    canvas.suptitle(_plain(title), fontsize=11)
    write_png(path, canvas, 130)


def _sheet(axes: Axes, heading: str, ids: np.ndarray, forgotten: Forgotten, images: dict[int, np.ndarray]) -> None:
    """Images side by side, each one unit wide with its label below."""
    axes.set_title(heading if len(ids) else f"{heading}: none", fontsize=10)
    axes.set_axis_off()
    rows = math.ceil(max(len(ids), 1) / ACROSS)
    for place, number in enumerate(ids):
        row, column = divmod(place, ACROSS)
        left, top = column * 1.1, row * 1.3
        # extent is (left, right, bottom, top), and y grows downwards
        axes.imshow(_shown(images[int(number)]), extent=(left, left + 1, top + 1, top), cmap="gray", vmin=0, vmax=1)
        word = f"{forgotten.labels[number]}: {forgotten.events[number]}x"
        axes.text(left + 0.5, top + 1.02, word, ha="center", va="top", fontsize=8)
    axes.set_xlim(0, ACROSS * 1.1)
    axes.set_ylim(rows * 1.3, 0)


def _shown(image: np.ndarray) -> np.ndarray:
    """[H, W] or [H, W, 3] in [0, 1] of an image [C, H, W]: its darkest value is 0 and its brightest 1."""
    low, high = image.min(), image.max()
    scaled = (image - low) / (high - low if high > low else 1)
    return scaled.transpose(1, 2, 0) if len(image) == 3 else scaled.mean(axis=0)


def _histogram(axes: Axes, forgotten: Forgotten) -> None:
    counts, never = forgotten.histogram(), len(forgotten.never_learned)
    bars = [axes.bar(range(len(counts)), counts, color="C0")]
    last = len(counts) + 0.5
    if never:
        bars.append(axes.bar([last], [never], color="C3"))
    if len(counts) <= FEW:
        for some in bars:
            axes.bar_label(some, fontsize=8)
    several = [count for count in (*counts, never) if count]
    if max(several) > STEEP * min(several):
        axes.set_yscale("log")
        axes.set_ylim(0.7, 2 * max(several))
        axes.set_ylabel("images (logarithmic)")
    else:
        axes.set_ylabel("images")
    step = max(1, math.ceil(len(counts) / 20))
    ticks = list(range(0, len(counts), step))
    names = [str(tick) for tick in ticks]
    axes.set_xticks([*ticks, last] if never else ticks, [*names, "never\nlearned"] if never else names)
    axes.set_xlabel("times forgotten")
    facts = forgotten.facts(0)
    axes.set_title(
        f"{facts['images']} training images: {facts['unforgettable']} unforgettable, {facts['forgotten']} forgotten at "
        f"least once, {never} never learned; {facts['removed']} removed",
        fontsize=10,
    )
    axes.grid(axis="y", alpha=0.3)


def _plain(text: object) -> str:
    """Text in which no dollar sign begins a formula."""
    return str(text).replace("$", r"\$")
