"""`mest report memory`: where training memory goes, and what less of it costs in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mest_compiler.cli.bars import turn_bar
from mest_compiler.cli.model_options import Channels, Classes, UsualPlane, plane_of, profile_of
from mest_compiler.cli.options import Batch, Device, Json, Seed, Threads, step_options
from mest_compiler.cli.output import say
from mest_compiler.cli.places import check_writable, made
from mest_compiler.cli.reporting import Output, Rounds, conclude, names_of, typed
from mest_compiler.cli.tables import mib, show, times
from mest_compiler.errors import ProfileError

if TYPE_CHECKING:
    from mest_compiler.bench.memory import Row, Step
    from mest_compiler.bench.torch_network import NetworkCase
    from mest_compiler.sparsity.profile import Profile

CSV, PNG = "memory.csv", "memory.png"
SCHEMES = ("block", "pattern", "unstructured")
ROUNDS = 5

ModelName = Annotated[
    str, typer.Option("--model", metavar="MODEL", help="A model's name, or FILE.py:CALLABLE for one of your own.")
]
WidthFactor = Annotated[
    float | None,
    typer.Option(
        "--width", help="Factor on the channels of every layer.", show_default="2, and 1 for a model of your own"
    ),
]
Schemes = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Sparsity schemes; the step under the limits has the first one.",
        show_default="block,pattern,unstructured",
    ),
]
Sparsity = Annotated[float, typer.Option(help="Fraction of the weights that are zero, above 0.")]


def command(
    context: typer.Context,
    model: ModelName = "resnet32",
    width: WidthFactor = None,
    schemes: Schemes = None,
    sparsity: Sparsity = 0.9,
    batch: Batch = 64,
    channels: Channels = 3,
    plane: UsualPlane = None,
    classes: Classes = 10,
    threads: Threads = None,
    device: Device = "cpu",
    rounds: Rounds = ROUNDS,
    seed: Seed = 0,
    output: Output = Path("runs/memory"),
    json: Json = None,
) -> None:
    """Memory of a training iteration by kind, and its price in time under five limits.

    The first panel has dense PyTorch (its own profiler's peak), our dense step, and the step of every scheme, with its
    activations kept as fp32 and as bf16. The second has the first scheme's step under five limits (`--memory-limit`),
    from what it takes without one down to the smallest one possible. Within a panel all steps take turns in alternating
    rounds, every one in a process of its own, all alive at the same time. The folder gets memory.csv and memory.png and
    replaces an earlier run's.

    Examples:

    mest report memory --threads 2 --output runs/memory --json -

    mest report memory --model vgg19_bn --width 1 --schemes block --rounds 3
    """
    from mest_compiler import models
    from mest_compiler.bench.torch_network import NetworkCase
    from mest_compiler.devices import get_device

    names = names_of(schemes, SCHEMES)
    profiles = {name: profile_of(name, sparsity, None) for name in names}
    if not 0 < sparsity < 1 or "auto" in names:
        raise ProfileError("The report needs schemes by name and a fraction of zeros between 0 and 1, such as 0.9.")
    threads = get_device(device, threads).threads
    check_writable(output / CSV)
    shape = (channels, *(models.usual_plane(model) if plane is None else plane_of(plane)))
    if width is None:
        width = 2.0 if model in models.available() else 1.0  # a builder of one's own may take none
    case = NetworkCase(model, classes, shape, batch, seed, width)
    with TemporaryDirectory(prefix="mest-") as folder:
        compiler = _Compiler(Path(folder), case, device, threads, sparsity)
        facts = {"threads": threads, "rounds": rounds, "device": device, "command": typed(context)}
        steps = compiler.steps(profiles)
        # a model of one's own may have another number of classes than it was asked for
        case = replace(case, classes=steps["dense"].manifest["classes"])
        rows = _measured("steps", steps, case, with_torch=True, **facts)
        _write(output, rows)  # the limits take as long again
        limits = compiler.limits(steps[names[0]], profiles[names[0]])
        rows += _measured("limits", limits, case, with_torch=False, **facts)
    _write(output, rows)
    _show(rows)
    conclude(context, output, (CSV, PNG), f"{len(rows)} rows", {"rows": [asdict(row) for row in rows]}, json)


@dataclass(frozen=True)
class _Compiler:
    """Compiles the steps of the report into a folder."""

    folder: Path
    case: NetworkCase
    device: str
    threads: int
    sparsity: float

    def steps(self, profiles: dict[str, Profile]) -> dict[str, Step]:
        """Our dense step, and of each scheme the one that keeps activations as they are and the one that has bf16."""
        found = {"dense": self._step("dense", None)}
        for scheme, profile in profiles.items():
            found[scheme] = self._step(scheme, profile, scheme=scheme)
            found[f"{scheme}, bf16"] = self._step(f"{scheme}, bf16", profile, scheme=scheme, activations="bf16")
        return found

    def limits(self, free: Step, profile: Profile) -> dict[str, Step]:
        """The step that no limit was set to, and others of its profile, down to the smallest limit possible."""
        from mest_compiler.bench.memory import limits_between
        from mest_compiler.passes.fit_memory import host_bytes

        needed = free.manifest["memory"]["planned_peak"] + host_bytes(len(free.manifest["parameters"]))
        largest, *others = limits_between(needed, self._smallest(free, profile))
        found = {f"{largest} bytes": replace(free, limit=largest)}
        for limit in others:
            name = f"{limit} bytes"
            found[name] = self._step(name, profile, scheme=free.scheme, limit=limit)
        return found

    def _smallest(self, free: Step, profile: Profile) -> int:
        """The smallest limit that the profile's step can be compiled for, in bytes."""
        from mest_compiler.errors import MemoryLimitError

        try:
            self._step("the smallest limit", profile, scheme=free.scheme, limit=1)
        except MemoryLimitError as error:
            return error.smallest
        raise AssertionError("no step takes one byte")

    def _step(
        self,
        name: str,
        profile: Profile | None,
        *,
        scheme: str = "",
        limit: int | None = None,
        activations: str | None = None,
    ) -> Step:
        from mest_compiler.bench.memory import Step
        from mest_compiler.cli.compiling import compiled, say_plan

        options = step_options(limit, activations)
        artifact = compiled(self.case, profile, device=self.device, threads=self.threads, title=name, options=options)
        say_plan(artifact.manifest["memory"], name)
        path = artifact.save(self.folder / str(len(list(self.folder.iterdir()))))
        return Step(path, artifact.manifest, scheme, self.sparsity if scheme else 0.0, limit)


def _measured(panel: str, steps: dict[str, Step], case: NetworkCase, **facts: Any) -> list[Row]:
    from mest_compiler.bench.memory import measure

    with turn_bar(panel) as progress:
        return measure(panel, steps, case, progress=progress, **facts)


def _write(output: Path, rows: Sequence[Row]) -> None:
    from mest_compiler.bench.csv_rows import write_rows
    from mest_compiler.bench.plots import plot_memory

    with made(output):
        write_rows(output / CSV, rows)
    plot_memory(output / PNG, rows)


def _show(rows: Sequence[Row]) -> None:
    """Both panels: peaks beside PyTorch's smallest, and times beside those without a limit."""
    from mest_compiler.bench.memory import least_torch, panel_of

    one, least = rows[0], least_torch(rows)
    say(f"{one.model}, width {one.width:g}, batch {one.batch}, {one.threads} threads on {one.device}")
    show(
        "memory of an iteration",
        ("step", "planned MiB", "measured MiB", "dense PyTorch takes", "ms"),
        [(row.row, *_peaks(row), times(least.peak / row.peak), f"{row.ms:.1f}") for row in panel_of(rows, "steps")],
    )
    limits = panel_of(rows, "limits")
    show(
        f"under limits: {limits[0].scheme}, {limits[0].sparsity:.0%} zeros",
        ("limit, MiB", "planned MiB", "measured MiB", "ms", "slower", "computed again, MiB", "examples at a time"),
        [
            (
                mib(row.memory_limit, 1),
                *_peaks(row),
                f"{row.ms:.1f}",
                times(row.ms / limits[0].ms),
                mib(row.recomputed, 1),
                f"{row.micro_batch}",
            )
            for row in limits
        ],
    )


def _peaks(row: Row) -> tuple[str, str]:
    """Planned and measured, in MiB."""
    return mib(row.planned_peak, 1), mib(row.measured_peak, 1)
