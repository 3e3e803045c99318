"""What `mest tune` does: tasks of a model or a layer, the search with its bar, and what is on record as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mest_compiler.cli.bars import turn_bar
from mest_compiler.cli.model_options import AUTO, plane_of, profile_of
from mest_compiler.cli.output import say
from mest_compiler.cli.tables import show, times
from mest_compiler.errors import TuningError

if TYPE_CHECKING:
    from torch import nn

    from mest_compiler.devices import Device
    from mest_compiler.passes.layer_kernels import LayerKernels
    from mest_compiler.passes.tiling.plan import Pick
    from mest_compiler.runtime.artifact import Artifact
    from mest_compiler.runtime.remote.where import Where
    from mest_compiler.sparsity.automatic import Automatic
    from mest_compiler.sparsity.profile import Profile
    from mest_compiler.tuning.finals import LastComparison, Outcome
    from mest_compiler.tuning.in_step import Step
    from mest_compiler.tuning.measure import EvaluatorConfig, Opener
    from mest_compiler.tuning.tasks import Task

A_TASK = 32
"""Trials of a task where nothing else was asked for."""
CHECKED_TASKS, CHECKED_TRIALS = 3, 64
REQUEST_S, WAIT_S, RETRY_S = 30.0, 60.0, 30.0
"""Limits of a connection while tuning: a candidate that hangs must not take the time of many others."""


@dataclass(frozen=True)
class Asked:
    """What is to be tuned, as the command's options say it."""

    what: str
    scheme: str | None
    sparsity: float | None
    profile: Path | None
    width: float
    channels: int
    plane: str
    classes: int
    batch: int
    device: str
    threads: int | None
    seed: int
    profile_ratios: str | None = None
    where: Where | None = None

    def say_notes(self) -> None:
        """Print how the profile was read, where there is something to say."""
        from mest_compiler.bench.layer_spec import PREFIX

        if self.profile is not None and not self.what.startswith(PREFIX):
            for note in getattr(self._rules(), "notes", ()):
                say(f"profile {self.profile}: {note}")

    @cached_property
    def target(self) -> Device:
        """The device's profile, with the hardware that kernels are measured on."""
        from mest_compiler.devices import get_device
        from mest_compiler.runtime.device_runtimes import device_runtime
        from mest_compiler.runtime.local_device import identified
        from mest_compiler.runtime.remote import connection

        device = get_device(self.device, self.threads)
        if self.where is None or device.hardware_known:
            return identified(device)
        with connection.open(self.where) as there:
            return device_runtime(device.kind).identified(device, there)

    def step(self) -> Step | None:
        """The step that is to be tuned; None: it is a layer."""
        from mest_compiler.bench.layer_spec import PREFIX
        from mest_compiler.tuning.in_step import Step

        if self.scheme == AUTO:
            raise TuningError("--scheme auto chooses by measuring: tune the schemes one by one.")
        return None if self.what.startswith(PREFIX) else Step(self.layers(), partial(compile_to, self))

    def tasks(self, step: Step | None) -> dict[Task, float]:
        """Tasks, and how often a step (of `step()`) runs each."""
        from mest_compiler.tuning.tasks import tasks_of

        return self._of_layer() if step is None else tasks_of(step.layers.values(), self.target)

    def layers(self) -> dict[str, LayerKernels]:
        """Of the model, see `compile.planned_layers`."""
        from mest_compiler.compile import planned_layers

        return planned_layers(self._network(), **self._arguments())

    def compiled(self, pick: Pick) -> Artifact:
        """The model's step with these kernels."""
        from mest_compiler.compile import compile_step

        return compile_step(self._network(), pick=pick, **self._arguments())

    def _network(self) -> nn.Module:
        from mest_compiler import models

        return models.build(
            self.what, classes=self.classes, in_channels=self.channels, width=self.width, seed=self.seed
        )

    def _rules(self) -> Profile | Automatic | None:
        return profile_of(self.scheme, self.sparsity, self.profile, self.profile_ratios)

    def _arguments(self) -> dict[str, Any]:
        return {
            "input_shape": (self.channels, *plane_of(self.plane)),
            "batch": self.batch,
            "profile": self._rules(),
            "device": self.device,
            "threads": self.threads,
        }

    def _of_layer(self) -> dict[Task, float]:
        from mest_compiler.bench.compiled_layer import geometry_of
        from mest_compiler.bench.inputs import layer_inputs
        from mest_compiler.bench.layer_spec import LayerSpec
        from mest_compiler.kernels.problem import LayerProblem
        from mest_compiler.sparsity.structure import build
        from mest_compiler.tuning.tasks import tasks_of_layer

        if self.profile is not None:
            raise TuningError("--profile says nothing about a single layer: leave it out.")
        spec, device = LayerSpec.parse(self.what), self.target
        geometry = geometry_of(spec, self.batch, device)
        problem = LayerProblem(geometry)
        if profile_of(self.scheme, self.sparsity, None) is not None:
            inputs = layer_inputs(
                spec, batch=self.batch, seed=self.seed, scheme=self.scheme, sparsity=self.sparsity, uneven=False
            )
            problem = LayerProblem(geometry, build(inputs.mask, self.scheme).spec)
        return tasks_of_layer(problem, device)


def compile_to(asked: Asked, pick: Pick, folder: str) -> None:
    """Saves a step with these kernels: an errand of another process."""
    asked.compiled(pick).save(Path(folder))


def places(where: Where | None, count: int) -> list[Opener | None]:
    """What opens the places to measure at: this machine, or so many devices of a key."""
    if where is None:
        if count > 1:
            raise TuningError("Several devices share the work of a tracker: add --tracker and --key.")
        return [None]
    from mest_compiler.runtime.remote import connection

    connection.open(where).close()  # a tracker that is not there is refused before the work
    return [partial(connection.open, where, request_s=REQUEST_S, wait_s=WAIT_S, retry_s=RETRY_S)] * count


def folder_of(output: Path | None) -> Path:
    """Where logs are kept."""
    from mest_compiler.tuning.database import FOLDER, logs_folder

    folder = logs_folder() if output is None else output
    if folder is None:
        raise TuningError(f"{FOLDER} is empty, so there is no folder of tuning logs: name one with --output.")
    return folder


def tuned(
    asked: Asked,
    trials: int | None,
    minutes: float | None,
    only: int | None,
    output: Path | None,
    at: Sequence[Opener | None],
    cool_down: float,
) -> dict[str, Any]:
    """Searches, says what it found, and returns that for JSON. cool_down: in seconds, see `EvaluatorConfig.pause_s`."""
    from mest_compiler.tuning.search import Budget, tune

    seconds = None if minutes is None else 60 * minutes
    if trials is not None or minutes is not None:
        Budget(trials, seconds).check()
    root = folder_of(output)
    step, device = asked.step(), asked.target
    tasks = asked.tasks(step)
    if trials is None and minutes is None:
        trials = A_TASK * len(tasks)
    begin = time.monotonic()
    last = _last_comparison(step, device, root, at)
    with turn_bar("tuning") as progress:
        found = tune(
            tasks, device, root, Budget(trials, seconds), title=_title(asked), heaviest=only, places=at,
            progress=progress, say=say, seed=asked.seed + 1, config=_config(cool_down), last=last,
        )  # fmt: skip
    for one in found:
        if one.default is None and one.trials:
            say(f"the default kernel of {one.task} failed: {one.reason or 'see the log'}")
    rows = [_row(str(o.task), o.weight, o.default, o.best, o.trials, o.failed, dict(o.knobs)) for o in found]
    _table(f"{asked.what} on {device.record_folder}", rows)
    before, after = (sum(row["weight"] * (row[key] or 0.0) for row in rows) for key in ("default_ms", "best_ms"))
    say(f"all kernels of a step: {before:.3f} ms with default knobs, {after:.3f} ms with the best ones")
    if last.outcome is not None:
        say(_said(last.outcome))
    return {
        "what": asked.what, "device": asked.device, "folder": str(root / device.record_folder),
        "seconds": time.monotonic() - begin, "trials": sum(row["trials"] for row in rows),
        "ms": {"default": before, "best": after}, "step": None if last.outcome is None else asdict(last.outcome),
        "tasks": rows,
    }  # fmt: skip


def _said(outcome: Outcome) -> str:
    if not outcome.winners:
        return (
            f"the step: {outcome.default_ms:.1f} ms with default knobs, and none of {outcome.steps} others was faster"
        )
    return (
        f"the step: {outcome.default_ms:.1f} ms with default knobs, {outcome.best_ms:.1f} ms with the best ones "
        f"({times(outcome.gain)}, of {outcome.winners} kernels; median of turns, {outcome.steps} steps were compared)"
    )


def _last_comparison(step: Step | None, device: Device, root: Path, at: Sequence[Opener | None]) -> LastComparison:
    """In the step, where there is one that runs here and whose kernels the wall clock can time."""
    from mest_compiler.runtime.device_runtimes import device_runtime
    from mest_compiler.tuning.finals import Alone
    from mest_compiler.tuning.in_step import InStep

    within = step is not None and device_runtime(device.kind).synchronous and list(at) == [None]
    return InStep(step, device, root) if within else Alone()


def _config(cool_down: float) -> EvaluatorConfig:
    from mest_compiler.tuning import search

    return replace(search.CONFIG, pause_s=cool_down)


def _title(asked: Asked) -> str:
    words = [asked.what, *(f"width {asked.width:g}" for _ in [0] if asked.width != 1)]
    if asked.profile is not None:
        words.append(asked.profile.name)
    elif asked.scheme is not None:
        words.append(f"{asked.scheme} {asked.sparsity:g}")
    return f"{' '.join(words)}, batch {asked.batch}"


def shown(device: str, threads: int | None, output: Path | None, plot: str | None) -> dict[str, Any]:
    """What is on record for a device, as a table and for JSON."""
    from mest_compiler.devices import get_device
    from mest_compiler.tuning.curves import curves_of, plot_curves
    from mest_compiler.tuning.database import read_log

    folder = folder_of(output) / get_device(device, threads).record_folder
    log = read_log(folder)
    for sentence in log.damaged:
        say(sentence)
    if not log.trials:
        raise TuningError(f"There are no tuning records in {folder}: make some with mest tune, or name another folder.")
    curves = curves_of(log)
    rows = [_row(c.title, None, c.default, c.best, len(c.bests), c.failed, dict(c.knobs)) for c in curves]
    _table(f"tuning records in {folder}", rows)
    if plot is not None:
        plot_curves(Path(plot), curves, f"Best time against trials: {folder.name}")
        say(f"{plot}: best time against trials")
    return {"device": device, "folder": str(folder), "tasks": rows, "damaged": log.damaged}


def checked(asked: Asked, trials: int | None, at: Sequence[Opener | None], cool_down: float) -> dict[str, Any]:
    """How good the cost model is, as a table and for JSON."""
    from mest_compiler.tuning.check import check
    from mest_compiler.tuning.search import Budget

    count = CHECKED_TRIALS if trials is None else trials
    Budget(count).check()
    with turn_bar("measuring") as progress:
        found = check(
            asked.tasks(asked.step()),
            asked.target,
            count,
            tasks_at_most=CHECKED_TASKS,
            places=at,
            progress=progress,
            seed=asked.seed + 1,
            config=_config(cool_down),
        )
    columns = ("task", "rank correlation", "held out", "default ms", "search ms", "random ms", "trials")
    cells = [
        (c.title, f"{c.correlation:.2f}", str(c.held_out), *map(_ms, (c.default, c.search, c.random)), str(count))
        for c in found
    ]  # fmt: skip
    show("cost model", columns, cells)
    rows = [
        {
            "task": c.title, "rank_correlation": c.correlation, "held_out": c.held_out, "trials": count,
            "default_ms": _in_ms(c.default), "search_ms": _in_ms(c.search), "random_ms": _in_ms(c.random),
            "search_curve_ms": [_in_ms(s) for s in c.search_curve],
            "random_curve_ms": [_in_ms(s) for s in c.random_curve],
        }
        for c in found
    ]  # fmt: skip
    return {"what": asked.what, "device": asked.device, "tasks": rows}


def _row(
    title: str, weight: float | None, default: float | None, best: float | None, trials: int, failed: int, knobs: dict
) -> dict[str, Any]:
    gain = None if default is None or best is None else default / best
    return {
        "task": title, "weight": weight, "default_ms": _in_ms(default), "best_ms": _in_ms(best), "gain": gain,
        "trials": trials, "failed": failed, "knobs": knobs,
    }  # fmt: skip


def _in_ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.4f}"


def _table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    cells = [
        (
            row["task"],
            *("-" if row[key] is None else f"{row[key]:.4f}" for key in ("default_ms", "best_ms")),
            times(row["gain"]),
            f"{row['trials']}" + (f" ({row['failed']} failed)" if row["failed"] else ""),
            ", ".join(f"{name} {value}" for name, value in sorted(row["knobs"].items())),
        )
        for row in rows
    ]
    show(title, ("task", "default ms", "best ms", "gain", "trials", "best knobs"), cells)
