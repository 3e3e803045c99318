"""Timing compiled steps as several commands do it: with a bar over the turns, and all that a result file says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mest_compiler.cli.bars import turn_bar

if TYPE_CHECKING:
    from mest_compiler.bench.torch_network import NetworkCase
    from mest_compiler.runtime.artifact import Artifact
    from mest_compiler.runtime.remote.where import Where

FACTS = ("model", "batch", "input_shape", "classes", "asked", "done")
"""What a report repeats of the manifest of the step it is about."""


def measured_remotely(
    artifacts: dict[str, Artifact], paths: dict[str, Path], where: Where, seed: int, rounds: int, rest: float,
    profile_kernels: bool,
) -> dict[str, Any]:  # fmt: skip
    """The report of steps that take turns on one device behind RPC."""
    from mest_compiler.bench.machine import describe
    from mest_compiler.bench.remote_network import compare_remote
    from mest_compiler.cli.devices.options import say_waiting
    from mest_compiler.devices import measured as roofline

    manifest = next(iter(artifacts.values())).manifest
    with turn_bar("timing") as progress:
        found = compare_remote(
            paths, where, seed=seed, rounds=rounds, pause_s=rest, profile_kernels=profile_kernels, progress=progress,
            waiting=say_waiting(),
        )  # fmt: skip
    facts = {key: manifest[key] for key in FACTS}
    host, probed = describe(), roofline.load(manifest["device"]["name"])
    if probed is not None and probed["opencl"] != found["opencl"]:
        probed = None  # of another device that goes by the same profile
    return {
        **facts,
        "device": manifest["device"]["name"],
        "where": str(where),
        "roofline": probed,
        **found,
        "host": host,
        "date": host["date"],
    }


def measured(
    artifacts: dict[str, Artifact],
    paths: dict[str, Path],
    case: NetworkCase | None,
    seed: int,
    threads: int,
    rounds: int,
    profile_kernels: bool,
) -> dict[str, Any]:
    """The report of a network's comparison, with what the artifacts say about themselves."""
    from mest_compiler.bench import compiled_network
    from mest_compiler.bench.compare import compare_network
    from mest_compiler.bench.report import memory_bytes, report, state_bytes
    from mest_compiler.devices import measured as roofline

    manifest = next(iter(artifacts.values())).manifest
    make = compiled_network.profiled if profile_kernels else compiled_network.contestant
    with turn_bar("timing") as progress:
        comparison = compare_network(
            paths, case, seed=seed, threads=threads, rounds=rounds, make=make, progress=progress
        )
    facts = {key: manifest[key] for key in FACTS}
    return {
        **facts,
        **report(comparison, device=manifest["device"]["name"], threads=threads),
        **state_bytes(comparison),
        **memory_bytes(comparison),
        "roofline": roofline.load(manifest["device"]["name"]),
        "compile_seconds": manifest["compile_seconds"],
    }
