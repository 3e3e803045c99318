"""Training with every allocation counted: `allocations.c` preloaded into a process of its own, which this file is too.

`python counted.py ARTIFACT...` trains each artifact in a fork of its own and prints a `Measured` a line, as JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("allocations.c")
LIMIT_S = 300
# What allocations.c tells apart.
DEVICE, ALIGNED, ORDINARY, MAPPED = range(4)
ACTIONS = ("start", "step", "step", "step", "predict", "mutate", "step", "step", "step")


@dataclass(frozen=True)
class Measured:
    """Bytes that a process took from its start of training on.

    device_peak: the most that was allocated at a time as TVM allocates tensors, pool and workspaces. device: what was
    allocated after each of `ACTIONS`. blocks: in how many blocks at the end. host: what malloc, C++ and anonymous
    mappings gave, after each action.
    """

    device_peak: int
    device: list[int]
    blocks: int
    host: list[int]


def built(folder: Path) -> Path:
    """The library that counts, compiled into a folder."""
    library = folder / "liballocations.so"
    compiler = next(name for name in ("cc", "gcc", "clang", "g++") if shutil.which(name))
    language = ["-x", "c"] if compiler == "g++" else []
    options = ["-O2", "-Wall", "-Wextra", "-Werror", "-fno-builtin", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, *language, SOURCE, "-o", library], check=True, timeout=LIMIT_S)
    return library


def run(library: Path, command: Sequence[str | Path]) -> str:
    """Standard output of a Python process whose allocations the library counts."""
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(library: Path, artifacts: Sequence[Path]) -> list[Measured]:
    """What training each artifact takes."""
    return [Measured(**json.loads(line)) for line in run(library, [__file__, *artifacts]).splitlines()]


class Counter:
    """The counts of this process, in which the library is preloaded."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        for name in ("live", "peak", "blocks"):
            getattr(self._library, f"counted_{name}").restype = ctypes.c_longlong

    def reset(self) -> None:
        """The peaks are what is allocated now."""
        for kind in (DEVICE, ALIGNED, ORDINARY, MAPPED):
            self._library.counted_reset(kind)

    def live(self, kind: int) -> int:
        """Bytes allocated now."""
        return int(self._library.counted_live(kind))

    def peak(self, kind: int) -> int:
        """The most bytes allocated at a time since the reset."""
        return int(self._library.counted_peak(kind))

    def blocks(self, kind: int) -> int:
        """Blocks allocated now."""
        return int(self._library.counted_blocks(kind))


def _train(path: str) -> Measured:
    from mest_compiler.runtime.artifact import Artifact
    from mest_compiler.runtime.trainer import Trainer

    counter, artifact, rng = Counter(), Artifact.load(path), np.random.default_rng(0)
    examples, shape = artifact.manifest["batch"], artifact.manifest["input_shape"]
    x = rng.standard_normal((examples, *shape)).astype(artifact.manifest["dtype"])
    y = rng.integers(0, artifact.manifest["classes"], examples)
    trainer, device, host = None, [], []
    gc.collect()
    counter.reset()
    before, blocks = counter.live(DEVICE), counter.blocks(DEVICE)
    for action in ACTIONS:
        if action == "start":
            trainer = Trainer(artifact)
        elif action == "step":
            assert np.isfinite(trainer.step(x, y, 0.01)[0])
        elif action == "predict":
            trainer.predict(x)
        else:
            trainer.importance(0.01)
            trainer.swap_structures({name: np.roll(mask, 1, axis=1) for name, mask in trainer.masks().items()})
        gc.collect()
        device.append(counter.live(DEVICE) - before)
        host.append(sum(counter.live(kind) for kind in (ALIGNED, ORDINARY, MAPPED)))
    return Measured(counter.peak(DEVICE) - before, device, counter.blocks(DEVICE) - blocks, host)


def _train_each(paths: Sequence[str]) -> None:
    """A fork has the memory of a fresh process, and what is imported here is imported once."""
    from mest_compiler.runtime import trainer  # noqa: F401

    for path in paths:
        child = os.fork()
        if not child:
            print(json.dumps(asdict(_train(path))), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"training {path} ended with status {status}")


if __name__ == "__main__":
    _train_each(sys.argv[1:])
