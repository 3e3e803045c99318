"""`mest profile --memory`: the training memory of a model's step, planned and measured, beside PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mest_compiler.cli.compiling import compiled, say_plan
from mest_compiler.cli.output import say
from mest_compiler.cli.tables import mib, show_memory

if TYPE_CHECKING:
    import numpy as np

    from mest_compiler.bench.torch_network import NetworkCase
    from mest_compiler.passes.options import StepOptions
    from mest_compiler.runtime.artifact import Artifact
    from mest_compiler.sparsity.profile import Profile

OF_TABLE_A1 = ("weights", "gradients", "indices")


def profiled_memory(
    case: NetworkCase,
    rules: Profile | None,
    options: StepOptions,
    *,
    device: str,
    threads: int,
    masks: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Compiles the step and runs some iterations of it, and of dense PyTorch's, in processes of their own.

    masks: of the layers of the rules; None: random ones.

    Returns `bytes` and `bytes_of` as `bench.report.memory_bytes`, `memory` of the manifest, and of the convolutions and
    sparse linear layers `table_a1_bytes` and what the step allocates of the same kinds, `program_bytes`.
    """
    from dataclasses import replace

    from mest_compiler.bench.memory import compiled_bytes, torch_bytes

    artifact = compiled(case, rules, device=device, threads=threads, title=case.model, options=options, masks=masks)
    with TemporaryDirectory(prefix="mest-") as folder:
        said = compiled_bytes(artifact.save(Path(folder, "step")), seed=case.seed, threads=threads)
    # a model of one's own may have another number of classes than it was asked for
    torch = torch_bytes(replace(case, classes=artifact.manifest["classes"]), threads=threads)
    name = "sparse" if artifact.structures else "dense"
    return {
        "bytes": {**said["bytes"], "torch_peak": torch["peak"]},
        "bytes_of": {name: said["bytes"], "torch": torch},
        "memory": artifact.manifest["memory"],
        "table_a1_bytes": said["table_a1_bytes"],
        "program_bytes": _program_bytes(artifact),
        "batch": case.batch,
        "threads": threads,
        "device": device,
    }


def show_profiled(found: dict[str, Any]) -> None:
    """Print what `profiled_memory` found."""
    show_memory(found["bytes_of"])
    say_plan(found["memory"])
    own = found["bytes"]
    ours = own["measured_peak"] or own["planned_peak"]
    how = "measured" if own["measured_peak"] else "planned"
    say(
        f"peak of an iteration: {mib(ours)} MiB {how}, dense PyTorch {mib(own['torch_peak'])} MiB: "
        f"{own['torch_peak'] / ours:.2f} times as much"
    )
    say(
        "weights, gradients and indices of the convolutions and sparse linear layers: "
        f"{mib(found['program_bytes'])} MiB in the step, {mib(found['table_a1_bytes'])} MiB as Table A.1 counts "
        "(16-bit indices)"
    )


def _program_bytes(artifact: Artifact) -> int:
    return sum(layer["bytes"][kind] for layer in artifact.manifest["layers"].values() for kind in OF_TABLE_A1)
