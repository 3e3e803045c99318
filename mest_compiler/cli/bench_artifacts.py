"""`mest bench` of artifacts: one alone or several in turn, here or behind RPC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mest_compiler.cli.asked import say_idle_threads
from mest_compiler.cli.measuring import measured, measured_remotely
from mest_compiler.errors import ArtifactError, BenchError

if TYPE_CHECKING:
    from mest_compiler.runtime.artifact import Artifact
    from mest_compiler.runtime.remote.where import Where

ALIKE = ("batch", "input_shape", "classes")
"""What artifacts that are compared have in common, besides their device."""


def opponent_paths(compare: str | None) -> list[str]:
    """Paths of the artifacts that --compare names; BenchError for what is none."""
    named = [name.strip() for name in (compare or "").split(",") if name.strip()]
    for name in named:
        if not Path(name).exists():
            raise BenchError(
                f"--compare {name} says nothing about an artifact: leave it out, or give another artifact's path."
            )
    return named


def bench_artifacts(
    paths: Sequence[Path], batch: int | None, device: str | None, *, seed: int, threads: int | None, rounds: int,
    profile_kernels: bool, where: Where | None, rest: float,
) -> dict[str, Any]:  # fmt: skip
    """The report of the first artifact, against the others. `batch` and `device`: None, or what it must be made for.

    Raises:
        ArtifactError: damaged, or made for something else. BenchError: artifacts that cannot be compared.
    """
    from mest_compiler.devices import available_cores, get_device
    from mest_compiler.runtime.artifact import Artifact
    from mest_compiler.runtime.device_runtimes import device_runtime

    artifacts: dict[str, Artifact] = {}
    paths = list(dict.fromkeys(paths))
    for path in paths:
        artifact = Artifact.load(path)
        _check(path, artifact.manifest, batch, device)
        title = "sparse" if artifact.structures else "dense"
        artifacts[title if title not in artifacts else str(path)] = artifact
    _check_alike(dict(zip(paths, artifacts.values(), strict=True)))
    by_name = dict(zip(artifacts, paths, strict=True))
    if where is not None:
        return measured_remotely(artifacts, by_name, where, seed, rounds, rest, profile_kernels)
    if len(artifacts) > 1 and set(artifacts) != {"sparse", "dense"}:
        raise BenchError("On this machine a sparse artifact is compared with a dense one, and with no other.")
    device_of_all = next(iter(artifacts.values())).manifest["device"]
    threaded = device_runtime(device_of_all["kind"]).threaded
    if not threaded and threads is not None:
        say_idle_threads(device_of_all["name"])
    threads = get_device("cpu", threads).threads if threaded else available_cores()
    return measured(artifacts, by_name, None, seed, threads, rounds, profile_kernels)


def _check(path: Path, manifest: dict[str, Any], batch: int | None, device: str | None) -> None:
    built_for = manifest["device"]["name"]
    if device not in (None, built_for):
        raise ArtifactError(
            f"Artifact {path} was compiled for {built_for}, not for {device}: compile it for that device."
        )
    if batch not in (None, manifest["batch"]):
        raise ArtifactError(
            f"Artifact {path} was compiled for a batch of {manifest['batch']}, not of {batch}: leave out --batch, or "
            "compile it for that batch."
        )


def _check_alike(artifacts: dict[Path, Artifact]) -> None:
    (first, one), *others = artifacts.items()
    for path, other in others:
        for key in ALIKE:
            if other.manifest[key] != one.manifest[key]:
                raise BenchError(
                    f"Artifacts {first} and {path} cannot be compared, since their {key.replace('_', ' ')} differs "
                    f"({one.manifest[key]} and {other.manifest[key]}): compile them alike."
                )
        mine, its = (artifact.manifest["device"]["name"] for artifact in (one, other))
        if mine != its:
            raise BenchError(
                f"Artifacts {first} and {path} cannot be compared: one is for {mine}, the other for {its}."
            )
