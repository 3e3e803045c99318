"""Compiled steps timed on one device behind RPC: they share its one session and take turns on it.

Measured as the paper does: the mean of many runs after a warm-up, on a batch that stays the same. Two times are told:
the device's own (the sum of its kernels' events), and the wall clock around runs that follow each other without a
stop, which has the gaps between kernels and the launches in it. Sending data is in neither.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from mest_compiler.bench.compiled_network import table_a1_bytes
from mest_compiler.bench.inputs import LEARNING_RATE, step_inputs
from mest_compiler.errors import BenchError
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.device_runtimes import device_runtime
from mest_compiler.runtime.remote import connection
from mest_compiler.runtime.remote.tracker import WaitingCallback
from mest_compiler.runtime.remote.where import Where
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.signature import Role

RUNS = 100
"""Timed runs of each step, as in the paper."""
WARM_UPS = 3
PROFILED = 5
"""Runs behind the times by kernel."""
Progress = Callable[[int, int, str], None]


class RemoteStep:
    """A step on the device, warmed up."""

    def __init__(self, path: Path, place: connection.Connection, seed: int) -> None:
        artifact = Artifact.load(path)
        m = artifact.manifest
        if m["batch"] != m["micro_batch"]:
            raise BenchError(
                f"The step at {path} trains a batch in parts of {m['micro_batch']}, which cannot be timed over RPC: "
                "compile it without a memory limit, or for that smaller batch."
            )
        self.trainer, self._place = Trainer(artifact, seed=seed, host=place), place
        self.loss, _ = self.trainer.step(*step_inputs(m, seed), LEARNING_RATE)
        for _ in range(WARM_UPS):
            (found,) = self.trainer.run()
        with place.during("the fetching of a loss"):
            last = float(found[Role.LOSS].numpy())
        if not math.isfinite(last):
            raise BenchError(
                f"The loss became {last} after {WARM_UPS + 1} steps: the kernels compute wrong numbers there."
            )

    def event_ms(self, runs: int) -> float:
        """The device's own time of a run, the mean of some."""
        session = self.trainer.session
        with self._place.during("timed training steps", self._place.request_s * runs):
            timed = session.vm.time_evaluator("invoke_stateful", session.device, number=runs)("step")
        return 1e3 * timed.mean

    def wall_ms(self, runs: int) -> float:
        """The wall clock's time of a run, the mean of some that follow each other."""
        session = self.trainer.session
        with self._place.during("timed training steps", self._place.request_s * runs):
            session.sync()
            start = perf_counter()
            for _ in range(runs):
                session.vm.invoke_stateful("step")
            session.sync()
            return 1e3 * (perf_counter() - start) / runs

    def kernel_ms(self) -> dict[str, dict[str, float]]:
        """{kernel: {"ms", "calls"}} of a step by the device's clock, slowest first.

        Raises:
            BenchError: a CPU, or a server with another OpenCL runtime than ours.
        """
        session, place = self.trainer.session, self._place
        clock = device_runtime(self.trainer.manifest["device"]["kind"]).clock
        if clock is None or not place.has(clock[0]):  # TVM's own runtime of a phone lacks them
            raise BenchError(
                f"The server {place.where} cannot say how long each kernel takes, since that takes an OpenCL device "
                "and our runtime for it: leave out --profile-kernels."
            )
        start, stop = clock
        with place.during("the timing of kernels", place.request_s * PROFILED):
            session.sync()
            place.session.get_function(start)(0)
            for _ in range(PROFILED):
                session.vm.invoke_stateful("step")
            session.sync()
            commands = json.loads(place.session.get_function(stop)(0))["commands"]
        slowest = sorted(commands.items(), key=lambda item: -item[1]["ms"])
        return {name: {"ms": one["ms"] / PROFILED, "calls": one["count"] / PROFILED} for name, one in slowest}


def compare_remote(
    artifacts: Mapping[str, Path], where: Where, *, seed: int, rounds: int, runs: int = RUNS, pause_s: float = 0.0,
    profile_kernels: bool = False, progress: Progress | None = None, waiting: WaitingCallback | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Times steps by name in alternating rounds, at least `runs` of each together, with `pause_s` of rest between.

    Returns JSON values: `ms` (wall, median of the rounds), `mean_ms` (of all runs), `event_ms` and `mean_event_ms`,
    `spread` and `event_spread` ((largest - smallest round) / median), `speedup` of the first over each other one, by
    wall and by events, `opencl`, the device's name, `loss` after the first step, and what each says about itself; with
    `profile_kernels` also `kernel_ms`, see `RemoteStep.kernel_ms`.

    Raises:
        DeviceError, DeviceLostError: the place is gone, or cannot run them. BenchError: a loss is no number.
    """
    from time import sleep

    each = math.ceil(runs / rounds)
    with connection.open(where, waiting=waiting) as place:
        steps = {name: RemoteStep(path, place, seed) for name, path in artifacts.items()}
        walls: dict[str, list[float]] = {name: [] for name in steps}
        events: dict[str, list[float]] = {name: [] for name in steps}
        order, done = list(steps), 0
        for number in range(rounds):
            for name in order if number % 2 == 0 else order[::-1]:
                if progress is not None:
                    progress(done, rounds * len(order), name)
                walls[name].append(steps[name].wall_ms(each))
                events[name].append(steps[name].event_ms(each))
                done += 1
            sleep(pause_s)
        said = {name: _said(step) for name, step in steps.items()}
        with place.during("the question for the device's name"):
            opencl = str(steps[order[0]].trainer.session.device.device_name or "unknown")
        if profile_kernels:
            for name, step in steps.items():
                said[name]["kernel_ms"] = step.kernel_ms()
    if progress is not None:
        progress(done, done, order[-1])
    first, median = order[0], statistics.median

    def spread(samples: list[float]) -> float:
        return (max(samples) - min(samples)) / median(samples)

    return {
        "subject": first,
        "opencl": opencl,
        "ms": {name: median(some) for name, some in walls.items()},
        "mean_ms": {name: statistics.fmean(some) for name, some in walls.items()},
        "event_ms": {name: median(some) for name, some in events.items()},
        "mean_event_ms": {name: statistics.fmean(some) for name, some in events.items()},
        "spread": {name: spread(some) for name, some in walls.items()},
        "event_spread": {name: spread(some) for name, some in events.items()},
        "speedup": {name: median(walls[name]) / median(walls[first]) for name in order[1:]},
        "event_speedup": {name: median(events[name]) / median(events[first]) for name in order[1:]},
        "rounds": rounds,
        "runs": each * rounds,
        **{key: {name: one[key] for name, one in said.items()} for key in next(iter(said.values()))},
    }


def _said(step: RemoteStep) -> dict[str, Any]:
    manifest = step.trainer.manifest
    return {
        "loss": step.loss,
        "kernels": {name: layer["kernels"] for name, layer in manifest["layers"].items()},
        "state_bytes": step.trainer.state_bytes(),
        "table_a1_bytes": table_a1_bytes(step.trainer),
        "bytes": {**manifest["memory"]["planned"], "planned_peak": manifest["memory"]["planned_peak"]},
    }
