"""Tables that commands print on standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from mest_compiler.cli.output import console, say

MIB = 2**20
"""Bytes."""
PLANNED = "planned_peak"
"""Key that the bytes of a compiled step have, and PyTorch's lack."""
ROOFLINE = {"read_16": "reads", "mad": "multiply-adds", "launch": "a launch"}
"""Numbers of a probe that a bench repeats, and what it calls them."""
SMALL = 0.005
"""Share of an iteration below which a kernel gets no line of its own."""


def mib(size: float | None, digits: int = 2) -> str:
    """Bytes in MiB, "-" for what does not exist."""
    return "-" if size is None else f"{size / MIB:.{digits}f}"


def times(ratio: float | None) -> str:
    """How many times as fast, or as much; "-" for what does not exist."""
    return "-" if ratio is None else f"{ratio:.2f}x"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; a column of numbers is set flush right, one with words flush left."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        words = number == 0 or any(row[number][:1].isalpha() for row in rows)
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False)


def show_comparison(title: str, result: Mapping[str, Any]) -> None:
    """The contestants of `bench.report.report`: median, spread, how many times the subject is faster, peak memory."""
    subject = result["subject"]
    medians = {name: value for name, value in result["ms"].items() if name != "torch"} | result["torch_variants"]
    rows = []
    for name, value in medians.items():
        mark = " *" if name == result.get("torch_fastest") else ""
        rows.append(
            (
                name + mark,
                f"{value:.3f}",
                f"{result['timings'][name]['spread']:.1%}",
                times(value / result["ms"][subject]),
                f"{result['peak_rss_mb'][name]:.0f}",
            )
        )
    show(title, ("contestant", "ms (median)", "spread", f"{subject} is faster by", "peak MiB"), rows)


def show_remote(title: str, result: Mapping[str, Any]) -> None:
    """Steps that took turns on a device behind RPC: wall clock and device time, beside what the device can reach."""
    subject, several = result["subject"], len(result["ms"]) > 1
    columns = ["step", "ms", "mean", "spread", "kernels, ms", "spread"]
    columns += [f"{subject} is faster by", "by kernels"] if several else []
    rows = []
    for name, ms in result["ms"].items():
        row = [name, f"{ms:.3f}", f"{result['mean_ms'][name]:.3f}", f"{result['spread'][name]:.1%}"]
        row += [f"{result['event_ms'][name]:.3f}", f"{result['event_spread'][name]:.1%}"]
        row += [times(result["speedup"].get(name)), times(result["event_speedup"].get(name))] if several else []
        rows.append(row)
    show(f"{title}, batch {result['batch']}, {result['runs']} runs each on the server {result['where']}", columns, rows)
    say(
        f"ms: wall clock of a step, median of {result['rounds']} rounds; kernels: the sum of their own times, without "
        "the gaps between them"
    )
    if (kernel_ms := result.get("kernel_ms")) is not None:
        show_kernels(kernel_ms)
    show_roofline(result["device"], result["roofline"])


def show_roofline(device: str, roofline: Mapping[str, Any] | None) -> None:
    """What `mest devices probe` measured of a device, in a sentence."""
    if roofline is None:
        say(f"what the device can reach is not known: mest devices probe --device {device} measures it")
        return
    numbers = roofline["numbers"]
    reached = ", ".join(
        f"{words} {numbers[key]['value']:.4g} {numbers[key]['unit']}"
        for key, words in ROOFLINE.items()
        if key in numbers
    )
    say(f"measured by mest devices probe on {roofline['opencl']}: {reached}")


def show_memory(bytes_of: Mapping[str, Mapping[str, int | None]]) -> None:
    """`bytes_of` of a report: training memory by kind, a column a contestant."""
    steps = {name: one for name, one in bytes_of.items() if PLANNED in one}
    rows = [(kind, *(mib(one[kind]) for one in steps.values())) for kind in next(iter(steps.values()))]
    rows = [(kind.replace("_", " "), *cells) for kind, *cells in rows]
    if (torch := bytes_of.get("torch")) is not None:
        own = {**torch, "activations": torch["rest"], "measured peak": torch["peak"]}
        rows = [(kind, *cells, mib(own[kind]) if kind in own else "") for kind, *cells in rows]
    show("training memory, MiB", ("", *bytes_of), rows)
    if torch is not None:
        say("PyTorch's peak is its own profiler's, of the dense network; its workspace is among its activations")


def show_kernels(kernel_ms: Mapping[str, Mapping[str, Mapping[str, float]]], bandwidth: float | None = None) -> None:
    """`kernel_ms` of a report: where the time of an iteration goes, slowest first; with `bandwidth`, the bytes a second
    that memory can move, also what its kernels move."""
    for contestant, kernels in kernel_ms.items():
        total = sum(kernel["ms"] for kernel in kernels.values())
        slowest = sorted(kernels.items(), key=lambda item: -item[1]["ms"])
        shown = [(name, kernel) for name, kernel in slowest if kernel["ms"] >= SMALL * total]
        rest = [kernel for _, kernel in slowest[len(shown) :]]
        if rest:
            shown.append((f"{len(rest)} others", {key: sum(k[key] for k in rest) for key in rest[0]}))
        rows = [
            (name, f"{kernel['ms']:.3f}", f"{kernel['ms'] / total:.1%}", f"{kernel['calls']:g}")
            + (() if bandwidth is None else _moved(kernel))
            for name, kernel in shown
        ]
        columns = ("kernel", "ms", "share", "calls") + (() if bandwidth is None else ("MB moved", "GB/s"))
        show(f"{contestant}: {total:.3f} ms by kernel", columns, rows)
    if bandwidth is None:
        return
    say(
        "moved: what a kernel reads and writes, each number once; a copy moves "
        f"{bandwidth / 1e9:.1f} GB/s where caches do not help"
    )


def _moved(kernel: Mapping[str, float]) -> tuple[str, str]:
    """MB and GB/s of a kernel of a network; those of a layer by itself stay in caches and are not counted."""
    if "bytes" not in kernel:
        return "-", "-"
    return f"{kernel['bytes'] / 1e6:.1f}", f"{kernel['bytes'] / kernel['ms'] / 1e6:.1f}" if kernel["ms"] else "-"


def show_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    """The layers of a compiled step: what each is and which kernels compute it."""
    rows = [
        (
            layer["name"],
            "x".join(str(size) for size in layer["shape"]),
            layer["scheme"],
            f"{layer['sparsity']:.1%}",
            _computed_by(layer["kernels"]),
        )
        for layer in layers
    ]
    show("layers", ("layer", "shape", "scheme", "zeros", "computed by"), rows)


def show_fallbacks(fallbacks: Mapping[str, Any]) -> None:
    """`fallbacks` of a manifest: what of a network runs outside batch tiles or by generic kernels, largest first."""
    rows = [
        (one["operator"], one["module"], str(one["calls"]), f"{one['bytes'] / 1e6:.1f}", f"{one['share']:.1%}")
        for one in fallbacks["operators"]
    ]
    columns = ("operator", "module", "calls", "MB moved", "share of time")
    show("outside batch tiles, or by generic kernels (estimated)", columns, rows)


def _computed_by(kernels: Mapping[str, Mapping[str, Any]]) -> str:
    """Which kind of kernel computes forward, backward-data and backward-weight: once, where it is always the same."""
    words = {"": "dense", "zeros": "dense, zeros kept"}
    found = [words.get(kernel["indexing"], kernel["indexing"]) for kernel in kernels.values()]
    return found[0] if len(set(found)) == 1 else " / ".join(found)
