"""The paper's figures and tables as pictures, each with its machine, date, versions and command under the title."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mest_compiler.bench.break_even import BreakEven
from mest_compiler.bench.evidence import Entry, Trained
from mest_compiler.bench.figure2 import PAPER, Point
from mest_compiler.bench.memory import KINDS, REST, least_torch, panel_of
from mest_compiler.bench.memory import Row as MemoryRow
from mest_compiler.bench.table_k1 import Row
from mest_compiler.files import write_png

MIB = 2**20
MARKERS = "osD^vPX*"
SPEEDUPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
"""Ticks of a logarithmic axis of speed-ups."""
COLUMNS = 120
"""Characters a line under a title."""


def plot_figure2(path: Path, points: Sequence[Point], gains: Mapping[str, BreakEven]) -> None:
    """Speed-up over PyTorch against sparsity, a line a scheme, as PNG; at least one point.

    The paper's break-even points are ticks on the dashed line of equal speed, in the colour of their scheme.
    """
    canvas = Canvas(figsize=(9, 6.5), layout="constrained")
    axes = canvas.add_subplot()
    axes.axhline(1, color="black", linestyle="--", linewidth=1)
    for number, (scheme, gain) in enumerate(gains.items()):
        own = [point for point in points if point.scheme == scheme]
        stated = f"{PAPER[scheme]:.0%}" if scheme in PAPER else "not stated"
        label = f"{scheme}: gains from {gain} (paper: {stated})"
        if gain.sparsity is None:
            label = f"{scheme}: does not gain up to {gain.highest:.1%} (paper: {stated})"
        marker = MARKERS[number % len(MARKERS)]
        zeros, speedups = [100 * point.zeros for point in own], [point.speedup_torch for point in own]
        (line,) = axes.plot(zeros, speedups, marker=marker, label=label)
        if scheme in PAPER:
            axes.plot([100 * PAPER[scheme]], [1], marker="|", markersize=22, markeredgewidth=3, color=line.get_color())
    axes.set_xlim(0, 100)
    axes.set_xlabel("zeros, % of the weights")
    _speedup_axis(axes, [point.speedup_torch for point in points])
    axes.set_ylabel("times faster than the fastest dense PyTorch")
    axes.legend(title="bars on the dashed line: where the paper's phone GPU breaks even", fontsize=9)
    one = points[-1]
    _title(canvas, axes, f"Figure 2: forward and both gradients of {one.layer}, batch {one.batch}", one)
    _save(canvas, path)


def plot_table_k1(path: Path, rows: Sequence[Row]) -> None:
    """Seconds an iteration by row, here and in the paper, as bars; PNG; at least one row."""
    canvas = Canvas(figsize=(10, 6), layout="constrained")
    axes = canvas.add_subplot()
    width = 0.4
    here = axes.bar([i - width / 2 for i in range(len(rows))], [row.seconds for row in rows], width, label="here")
    axes.bar_label(here, [_bar_text(row.seconds, row.speedup_dense) for row in rows], fontsize=8)
    stated = [(i, row) for i, row in enumerate(rows) if row.paper_seconds is not None]
    paper = axes.bar(
        [i + width / 2 for i, _ in stated],
        [row.paper_seconds for _, row in stated],
        width,
        label="paper (phone GPU, MEST+EM)",
    )
    axes.bar_label(paper, [_bar_text(row.paper_seconds, row.paper_speedup) for _, row in stated], fontsize=8)
    names = [f"{row.row}\n{row.zeros:.1%} zeros" for row in rows]
    axes.set_xticks(range(len(rows)), names, fontsize=8)
    axes.set_ylabel("seconds an iteration")
    axes.legend(title="x: times faster than the dense step of the same place")
    axes.margins(y=0.12)
    one = rows[0]
    _title(canvas, axes, f"Table K.1: a training iteration of {one.model}, width {one.width:g}, batch {one.batch}", one)
    _save(canvas, path)


def plot_evidence(path: Path, rows: Sequence[Trained], entries: Sequence[Entry]) -> None:
    """Test accuracy against sparsity, a panel a scheme, a line a method with its standard deviation; PNG; at least one
    row. The dense network's accuracy is a dashed line in every panel."""
    schemes = list(dict.fromkeys(entry.cell.scheme for entry in entries if entry.cell.scheme)) or [""]
    canvas = Canvas(figsize=(max(4.5 * len(schemes) + 1, 10), 5.5), layout="constrained")
    panels = canvas.subplots(1, len(schemes), sharey=True, squeeze=False)[0]
    dense = [entry for entry in entries if not entry.cell.scheme]
    methods = list(dict.fromkeys(entry.cell.method for entry in entries if entry.cell.scheme))
    for axes, scheme in zip(panels, schemes, strict=True):
        for entry in dense:
            axes.axhline(100 * entry.accuracy, color="black", linestyle="--", linewidth=1, label="dense")
        for number, method in enumerate(methods):
            own = [entry for entry in entries if (entry.cell.scheme, entry.cell.method) == (scheme, method)]
            # side by side, so that their bars can be told apart
            places = [100 * entry.cell.sparsity + 0.25 * (number - (len(methods) - 1) / 2) for entry in own]
            axes.errorbar(
                places,
                [100 * entry.accuracy for entry in own],
                [100 * (entry.deviation or 0) for entry in own],
                marker=MARKERS[number % len(MARKERS)],
                capsize=3,
                label=method,
            )
        axes.set_xlabel(f"zeros, % ({scheme})" if scheme else "")
        axes.set_xticks(sorted({100 * entry.cell.sparsity for entry in entries if entry.cell.scheme}))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy, %")
    panels[0].legend(fontsize=9)
    one = rows[-1]
    runs = max(entry.runs for entry in entries)
    noise = f", noise {one.noise:g}" if one.noise else ""
    title = f"{one.model} on {one.examples} images of {one.data}{noise}, {one.epochs} epochs, {runs} seeds"
    _title(canvas, panels[len(panels) // 2], title, one)
    _save(canvas, path)


def plot_memory(path: Path, rows: Sequence[MemoryRow]) -> None:
    """Memory of an iteration as stacked bars, a step each, those under limits in a panel of their own with their times;
    PNG; at least PyTorch's row and one more."""
    limits = panel_of(rows, "limits")
    steps = [least_torch(rows), *(row for row in panel_of(rows, "steps") if row.planned_peak is not None)]
    canvas = Canvas(figsize=(15 if limits else 10, 7), layout="constrained")
    panels = canvas.subplots(1, 2 if limits else 1, squeeze=False, width_ratios=[3, 2] if limits else [1])[0]
    names = ["dense PyTorch", *(f"{row.row}\n{row.sparsity:.0%} zeros" for row in steps[1:])]
    _stacked(panels[0], steps, names)
    panels[0].set_ylabel("MiB at the peak of an iteration")
    canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    if limits:
        names = [f"{row.memory_limit / MIB:.1f}\n{row.micro_batch} at a time" for row in limits]
        _stacked(panels[1], limits, names)
        panels[1].set_xlabel(f"--memory-limit, MiB ({limits[0].scheme}, {limits[0].sparsity:.0%} zeros)")
        times = panels[1].twinx()
        times.plot(range(len(limits)), [row.ms for row in limits], color="black", marker="o")
        times.set_ylim(0, 1.25 * max(row.ms for row in limits))
        times.set_ylabel("ms an iteration (line)")
    one = rows[0]
    _title(canvas, panels[0], f"Training memory of {one.model}, width {one.width:g}, batch {one.batch}", one)
    _save(canvas, path)


def _stacked(axes: Axes, rows: Sequence[MemoryRow], names: Sequence[str]) -> None:
    """A bar a row of what was planned by kind, and a line where its measured peak is."""
    places, floor = range(len(rows)), [0.0] * len(rows)
    for kind in (*KINDS, REST):
        sizes = [(getattr(row, kind) or 0) / MIB for row in rows]
        if any(sizes):
            label = "PyTorch's activations and workspace" if kind == REST else kind
            axes.bar(places, sizes, 0.6, floor, label=label)
            floor = [low + size for low, size in zip(floor, sizes, strict=True)]
    peaks = [row.peak / MIB for row in rows]
    axes.hlines(peaks, [x - 0.38 for x in places], [x + 0.38 for x in places], "black", label="measured peak")
    for place, peak, top, row in zip(places, peaks, floor, rows, strict=True):
        text = f"{peak:.1f} MiB\n{row.ms:.0f} ms"
        axes.annotate(text, (place, max(peak, top)), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(places, names, fontsize=8)
    axes.margins(y=0.12)


def _bar_text(seconds: float, speedup: float | None) -> str:
    return f"{seconds:.3g} s" + ("" if speedup is None else f"\n{speedup:.2f}x")


def _speedup_axis(axes: Axes, speedups: Sequence[float]) -> None:
    """Logarithmic, with plain numbers and room for all of them and for 1."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(SPEEDUPS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.set_ylim(min(*speedups, 1) / 1.3, max(*speedups, 1) * 1.3)
    axes.grid(alpha=0.3)


def _title(canvas: Canvas, axes: Axes, title: str, one: Any) -> None:
    """The title, and where the numbers of this row come from."""
    threads = "1 thread" if one.threads == 1 else f"{one.threads} threads"
    place = f"{one.machine}; {threads}; {one.date}; PyTorch {one.torch}, TVM {one.tvm}"
    canvas.suptitle(title)
    lines = [line for text in (place, one.command) for line in textwrap.wrap(text, COLUMNS)]
    # a dollar sign would begin a formula
    axes.set_title("\n".join(lines), fontsize=8, parse_math=False)


def _save(canvas: Canvas, path: Path) -> None:
    write_png(path, canvas, 150)
