"""A compiled step of a whole network as a contestant: one iteration on a batch that stays the same."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np

from mest_compiler.bench.child import Contestant
from mest_compiler.bench.inputs import LEARNING_RATE, step_inputs
from mest_compiler.losses.base import named
from mest_compiler.runtime.allocated import bytes_in_use
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.runtime.device_runtimes import device_runtime
from mest_compiler.runtime.kernel_clock import KernelClock
from mest_compiler.runtime.trainer import Trainer
from mest_compiler.sparsity.footprint import Footprint, dense_footprint, kept_footprint

PROFILED = 5
"""Iterations behind the times by kernel."""
KernelTimes = dict[str, dict[str, float]]


def contestant(name: str, artifact: Path, *, seed: int, threads: int) -> Contestant:
    """The step of the artifact at a path."""
    return Contestant(
        name,
        f"{__name__}:{step.__name__}",
        {"artifact": str(artifact), "seed": seed, "threads": threads},
        threads,
    )


def profiled(name: str, artifact: Path, *, seed: int, threads: int) -> Contestant:
    """The same, and its `result` says after the timing how long each kernel takes."""
    plain = contestant(name, artifact, seed=seed, threads=threads)
    return Contestant(name, f"{__name__}:{profiled_step.__name__}", plain.arguments, threads)


def step(artifact: str, seed: int, threads: int) -> CompiledStep:
    """Factory of `contestant`."""
    return CompiledStep(artifact, seed, threads)


def profiled_step(artifact: str, seed: int, threads: int) -> ProfiledStep:
    """Factory of `profiled`."""
    return ProfiledStep(artifact, seed, threads)


class CompiledStep:
    """The first iteration, which fills the input buffers and whose loss is compared, is run when this is made."""

    def __init__(self, artifact: str, seed: int, threads: int) -> None:
        loaded = Artifact.load(artifact)
        gc.collect()
        self._before = bytes_in_use()
        inputs, targets = step_inputs(loaded.manifest, seed)
        self.trainer = Trainer(loaded, threads)
        self.loss, self.given = self.trainer.step(inputs, targets, LEARNING_RATE)

    def run(self) -> None:
        """One iteration, to its end."""
        self.trainer.run()
        self.trainer.session.sync()

    def outputs(self, path: Path) -> None:
        """Save the loss [] and the outputs [N, ...] of the first iteration, float32, as .npz: "logits" where
        it is one."""
        np.savez(path, loss=np.float32(self.loss), **named(self.given, "logits"))

    def result(self) -> dict[str, Any]:
        """Bytes of the training state by kind, what the paper's formula says of it, bytes of all training memory as
        planned and as measured, and the kernels by layer."""
        layers = self.trainer.manifest["layers"]
        return {
            "bytes": self._bytes(),
            "state_bytes": self.trainer.state_bytes(),
            "table_a1_bytes": table_a1_bytes(self.trainer),
            "kernels": {name: layer["kernels"] for name, layer in layers.items()},
        }

    def _bytes(self) -> dict[str, int | None]:
        """The plan's bytes by kind and their sum, `planned_peak`; `measured_peak`: what this process's allocator has
        handed out since before there was a trainer, without the program's code. The runtime's pool keeps what it once
        took, so that is its peak; None where the C library does not count. Of an OpenCL device: the peak of its
        buffers."""
        plan = self.trainer.manifest["memory"]
        measured = device_runtime(self.trainer.manifest["device"]["kind"]).peak_bytes()
        if measured is None:
            gc.collect()
            now = bytes_in_use()
            measured = None if now is None else now - self._before - self.trainer.session.program_bytes
        return {**plan["planned"], "planned_peak": plan["planned_peak"], "measured_peak": measured}


class ProfiledStep(CompiledStep):
    """With `kernel_ms` in its result."""

    def result(self) -> dict[str, Any]:
        """As `CompiledStep`'s, with `kernel_ms`: {kernel: {"ms", "calls", "bytes"}} an iteration, slowest first."""
        return {**super().result(), "kernel_ms": kernel_times(self.trainer)}


def table_a1_bytes(trainer: Trainer) -> float:
    """Weights, gradients and indices of the convolutions and sparse linear layers as Table A.1 counts them."""
    footprint = Footprint()
    for name, layer in trainer.manifest["layers"].items():
        structure = trainer.structures.get(name)
        shape = tuple(layer["shape"])
        footprint += (
            dense_footprint(shape) if structure is None else kept_footprint(shape, layer["scheme"], structure.entries)
        )
    return footprint.bytes()


def kernel_times(trainer: Trainer) -> KernelTimes:
    """Wall time in ms, number of calls and bytes of the arguments (tensors that are read or written, once each) of each
    function that a step calls, an iteration, slowest first.

    Nothing is to be timed with this trainer afterwards, see `KernelClock`.
    """
    clock = KernelClock(trainer)
    turns = [clock.iteration() for _ in range(PROFILED)]
    found: KernelTimes = {}
    for name, size in clock.sizes.items():
        spent = [turn[name] for turn in turns if name in turn]
        calls = sum(one.calls for one in spent) / PROFILED
        found[name] = {"ms": sum(one.ms for one in spent) / PROFILED, "calls": calls, "bytes": calls * size}
    return dict(sorted(found.items(), key=lambda item: -item[1]["ms"]))
