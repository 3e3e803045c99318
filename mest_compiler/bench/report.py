"""A comparison as the values that go into its JSON file: what was how fast, by how much, on which machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mest_compiler.bench.compare import COMPILED, DENSE, TORCH, Comparison
from mest_compiler.bench.machine import describe
from mest_compiler.bench.rounds import Timing, fastest


def report(comparison: Comparison, *, device: str, threads: int) -> dict[str, Any]:
    """JSON values of a comparison.

    ms: median of the rounds of those of `COMPILED` that took part, and of `torch`, the PyTorch variant with the
    smallest median; torch_variants has them all. speedup: how many times faster the subject (sparse, or dense where
    nothing is sparse) is than each other one; dense_vs_torch the same for our dense step. spread: (largest - smallest
    sample) / median. peak_rss_mb: MiB of each contestant's process. kernels: by contestant of ours, layer and
    direction: kernel, knobs and whether they are tuned. max_rel_error: the subject's largest, null without PyTorch.
    """
    timings = comparison.timings
    named = _named(timings)
    ms = {name: timing.median for name, timing in named.items()}
    subject = comparison.subject
    speedup = {name: value / ms[subject] for name, value in ms.items() if name != subject}
    if DENSE in ms and TORCH in ms:
        speedup["dense_vs_torch"] = ms[TORCH] / ms[DENSE]
    said = {name: timings[name].extra["result"] for name in COMPILED if name in timings}
    errors = comparison.errors
    found = {
        "subject": subject,
        "ms": ms,
        "speedup": speedup,
        "max_rel_error": max(errors[subject].values()) if subject in errors else None,
        "rel_errors": errors,
        "threads": threads,
        "device": device,
        "rounds": len(timings[subject].samples),
        "spread": {name: timing.spread for name, timing in named.items()},
        "torch_variants": {name: timing.median for name, timing in timings.items() if name.startswith(TORCH)},
        "peak_rss_mb": {name: t.extra["peak_rss_mb"] for name, t in (named | dict(timings)).items()},
        "kernels": {name: result["kernels"] for name, result in said.items()},
        "timings": {name: _plain(timing) for name, timing in timings.items()},
    }
    if TORCH in ms:
        found["torch_fastest"] = fastest(timings, TORCH)
    times = {name: result["kernel_ms"] for name, result in said.items() if "kernel_ms" in result}
    if times:
        found["kernel_ms"] = times
    machine = describe()
    return {**found, "machine": machine, "date": machine["date"]}


def state_bytes(comparison: Comparison) -> dict[str, Any]:
    """`state_bytes` (weights + gradients + momentum, and what says where the weights are, by contestant) and
    `state_bytes_details` of a network's comparison, and `table_a1_bytes`: the paper's formula for convolutions and
    sparse linear layers, without momentum."""
    details = {name: timing.extra["result"]["state_bytes"] for name, timing in _named(comparison.timings).items()}
    totals = {name: sum(d.values()) if isinstance(d, Mapping) else d for name, d in details.items()}
    formula = {
        name: timing.extra["result"]["table_a1_bytes"]
        for name, timing in _named(comparison.timings).items()
        if "table_a1_bytes" in timing.extra["result"]
    }
    return {"state_bytes": totals, "state_bytes_details": details, "table_a1_bytes": formula}


def memory_bytes(comparison: Comparison) -> dict[str, Any]:
    """`bytes` of a network's comparison: of the subject, by kind as planned, `planned_peak` and `measured_peak` (null
    where the C library does not count), and `torch_peak`, of the PyTorch variant that needs the least, where PyTorch
    took part; `bytes_of`: the same of every contestant of ours, and of that variant as `torch`."""
    timings = comparison.timings
    found = {name: timings[name].extra["result"]["bytes"] for name in COMPILED if name in timings}
    subject = dict(found[comparison.subject])
    variants = [t.extra["result"]["bytes"] for name, t in timings.items() if name.startswith(TORCH)]
    if variants:
        found[TORCH] = min(variants, key=lambda one: one["peak"])
        subject["torch_peak"] = found[TORCH]["peak"]
    return {"bytes": subject, "bytes_of": found}


def _named(timings: Mapping[str, Timing]) -> dict[str, Timing]:
    """Ours by their names, and the fastest PyTorch variant as `torch`."""
    named = {name: timings[name] for name in COMPILED if name in timings}
    if any(name.startswith(TORCH) for name in timings):
        named[TORCH] = timings[fastest(timings, TORCH)]
    return named


def _plain(timing: Timing) -> dict[str, Any]:
    """A timing without what the report says elsewhere or nobody can read any more."""
    return {key: value for key, value in timing.to_json().items() if key not in ("result", "outputs")}
