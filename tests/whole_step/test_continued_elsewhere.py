"""A run that another process goes on with ends bit by bit as the one that was never stopped: weights, momenta, masks.

In the network the order of the layers' names, which is a file's, is not their own order, and all of them mutate.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mest_compiler import compile_step
from mest_compiler.cli.training_start import first_start
from mest_compiler.devices import CpuProfile
from mest_compiler.optimizers import Sgd
from mest_compiler.runtime.artifact import Artifact
from mest_compiler.training.recipe import Recipe

from ..training.interrupted import CtrlC
from . import continuing, stacked
from .cases import unoptimised
from .continuing import SHAPE, STOP, TORCH, WAYS

_steps: dict[str, Artifact] = {}


def compiled(run: Recipe, device: str) -> Artifact:
    """The step of a run: one program a device, with the weights and masks that the run's seed draws."""
    start = first_start(run, continuing.data())
    if device not in _steps:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CpuProfile, "target", property(unoptimised))
            _steps[device] = compile_step(
                start.sparse.model, input_shape=SHAPE, batch=run.batch, profile=start.sparse.profile, masks=start.masks,
                optimizer=Sgd(run.momentum, run.weight_decay, run.nesterov), device=device, threads=1, measure=False,
            )  # fmt: skip
    state = {name: tensor.numpy() for name, tensor in start.sparse.model.state_dict().items()}
    return _steps[device].started_from(state, start.masks)


@pytest.fixture(scope="module", autouse=True)
def _opencl_compiles_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The kernels' binaries are kept for all these processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEST_CACHE", str(tmp_path_factory.mktemp("binaries")))
        yield


def begin(kind: str, seed: int, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Trains in this process to the end, and leaves in `folder` what another one goes on from; how each way must
    end."""
    folder.mkdir()
    run = continuing.recipe(seed, folder)
    artifact = None if kind == TORCH else compiled(run, kind)
    whole = continuing.begun(kind, run, artifact)
    continuing.go_on(whole, run, folder / "whole")
    stopped = continuing.begun(kind, run, artifact)
    with pytest.raises(KeyboardInterrupt):
        continuing.go_on(stopped, run, folder / "stopped", CtrlC(after_epoch=STOP))
    wanted = dict.fromkeys(WAYS[:2], continuing.bits(whole))
    if kind == TORCH:
        return {WAYS[0]: wanted[WAYS[0]]}
    artifact.save(folder / "artifact")
    trained = stopped.to_artifact()
    trained.save(folder / "trained")
    again = continuing.begun(kind, run, trained)
    continuing.go_on(again, continuing.alone(run), folder / "again")
    return {**wanted, WAYS[2]: continuing.bits(again)}


def check(folder: Path, kinds: tuple[str, ...], seed: int) -> None:
    wanted = {kind: begin(kind, seed, folder / kind) for kind in kinds}
    command = [sys.executable, continuing.__file__, str(folder), str(seed), *kinds]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind, ways in wanted.items():
        for way, arrays in ways.items():
            masks = [name for name in arrays if name.startswith("masks/")]
            assert len(masks) == stacked.SPARSE + 1 and masks != sorted(masks)
            with np.load(folder / kind / f"{way}.npz") as found:
                assert set(found) == set(arrays)
                other = [name for name in arrays if found[name].tobytes() != arrays[name].tobytes()]
            assert not other, (kind, way, other)


def test_another_process_ends_as_this_one(tmp_path: Path) -> None:
    check(tmp_path, ("cpu", TORCH), seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_ten_times_of_ten(tmp_path: Path, seed: int) -> None:
    check(tmp_path, ("cpu", "opencl", TORCH), seed)
