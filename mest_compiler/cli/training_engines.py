"""The two engines of `mest train`: the compiled step, and masked training in PyTorch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mest_compiler.cli.asked import check_device
from mest_compiler.errors import DeviceError, MestError, ProfileError

if TYPE_CHECKING:
    from mest_compiler.cli.training_start import Start
    from mest_compiler.passes.options import StepOptions
    from mest_compiler.runtime.artifact import Artifact
    from mest_compiler.runtime.remote.where import Where
    from mest_compiler.runtime.trainer import Trainer
    from mest_compiler.training.examples import Examples
    from mest_compiler.training.ranks import Ranks
    from mest_compiler.training.recipe import Recipe
    from mest_compiler.training.torch_engine import TorchEngine

COMPILED, TORCH = "compiled", "torch"
ENGINES = (COMPILED, TORCH)
CPU = "cpu"
TORCH_DEVICES = ("cuda", "mps", "xpu")
"""What PyTorch calls devices that the compiled step does not know."""


@dataclass(frozen=True)
class Built:
    """An engine that is ready for its first step.

    name: one of ENGINES; device: what it computes on; threads: of the CPU; artifact: of the compiled engine; where:
    how its device is reached, None: it is this machine's.
    """

    name: str
    engine: Trainer | TorchEngine
    device: str
    threads: int
    artifact: Artifact | None = None
    where: Where | None = None


def check_engine(name: str, device: str, *, measures: bool, threads: int | None, where: Where | None) -> None:
    """Raise, before any work, what an engine refuses. measures: whether kernels are to be timed for a scheme "auto".

    Raises:
        MestError: no such engine, or several processes for the compiled step. DeviceError: it does not run on this
            device, in this place or with threads. ProfileError: PyTorch has no kernels to time.
    """
    if name not in ENGINES:
        raise MestError(f"There is no backend {name!r}: use {' or '.join(ENGINES)}.")
    if name == TORCH and where is not None:
        raise DeviceError("--backend torch trains on this machine: leave out --tracker, --key, --server and --adb.")
    if name == TORCH:
        from mest_compiler.training.torch_engine import torch_device

        torch_device(device)
        if measures:
            raise ProfileError(
                "Scheme 'auto' measures compiled kernels, and --backend torch has none: name a scheme, or a profile."
            )
        return
    from mest_compiler.devices import NAMES

    if device.partition(":")[0] in TORCH_DEVICES:
        raise DeviceError(
            f"The compiled step runs on {', '.join(NAMES)}, not on {device!r}: add --backend torch, or leave out "
            "--device."
        )
    check_device(device, threads)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise MestError("The compiled step trains in one process: add --backend torch, or start it without torchrun.")


def check_method(name: str, recipe: Recipe) -> None:
    """Raise MestError where the recipe's method needs what an engine does not offer."""
    from mest_compiler.training.mutator import check_needs

    if name == COMPILED:
        from mest_compiler.runtime.trainer import Trainer as Engine
    else:
        from mest_compiler.training.torch_engine import TorchEngine as Engine
    check_needs(recipe.updater, Engine)


def ranks_of(name: str, device: str) -> Ranks:
    """The processes that train together; see `training.process_group`."""
    if name == COMPILED:
        from mest_compiler.training.ranks import SingleProcess

        return SingleProcess()
    from mest_compiler.training.process_group import ranks_of_environment

    return ranks_of_environment(device)


def torch_engine(recipe: Recipe, start: Start, device: str, threads: int | None, ranks: Ranks) -> Built:
    """Masked training in PyTorch; threads: None leaves them as PyTorch has them."""
    import torch

    from mest_compiler.training.torch_engine import TorchEngine

    if threads is not None:
        torch.set_num_threads(threads)
    local = ranks.local(device)
    engine = TorchEngine(
        start.sparse.model,
        start.masks,
        start.schemes,
        optimizer=recipe.rule,
        loss=recipe.rule_of_loss,
        device=local,
        seed=recipe.seed,
        ranks=ranks,
    )
    return Built(TORCH, engine, local, torch.get_num_threads())


def compiled_engine(
    recipe: Recipe,
    data: Examples,
    start: Start,
    device: str,
    threads: int | None,
    options: StepOptions,
    where: Where | None = None,
) -> Built:
    """Compiles the step."""
    from mest_compiler.cli.compiling import compile_with_bar

    _one_pool_of_threads()
    artifact = compile_with_bar(
        recipe.model,
        start.sparse.model,
        inputs=data.inputs,
        batch=recipe.batch,
        profile=start.sparse.profile,
        masks=start.sparse.masks,
        seed=recipe.seed,
        headroom=recipe.updater.headroom,
        loss=recipe.rule_of_loss,
        optimizer=recipe.rule,
        device=device,
        threads=threads,
        name=recipe.model,
        measure=where is None,  # this machine need not have such a device
        options=options,
    )
    return _trainer(recipe, artifact, threads, where)


def loaded_engine(
    recipe: Recipe, path: Path, device: str | None, threads: int | None, where: Where | None = None
) -> Built:
    """The step that was compiled before, at `path`, on its own device; device: None, or what that must be.

    Its kernels' way of adding up is part of it, so the number of threads changes nothing of what is computed.

    Raises:
        DeviceError: it was compiled for another device than `device`.
    """
    from mest_compiler.runtime.artifact import Artifact

    _one_pool_of_threads()
    artifact = Artifact.load(path)
    built_for = artifact.manifest["device"]["name"]
    if device not in (None, built_for):
        raise DeviceError(
            f"The step at {path} was compiled for {built_for}, not for {device}: leave out --device, or remove that "
            "folder to have one compiled."
        )
    return _trainer(recipe, artifact, threads, where)


def connected_again(recipe: Recipe, built: Built) -> Built:
    """The same step, not yet begun, on a device that the place it was trained at gives now."""
    return _trainer(recipe, built.artifact, built.threads, built.where)


def _trainer(recipe: Recipe, artifact: Artifact, threads: int | None, where: Where | None) -> Built:
    from mest_compiler.runtime.trainer import Trainer

    place = None
    if where is not None:
        from mest_compiler.cli.devices.options import say_waiting
        from mest_compiler.runtime.remote import connection

        place = connection.open(where, waiting=say_waiting())
    trainer = Trainer(artifact, threads, recipe.seed, place)
    return Built(COMPILED, trainer, artifact.manifest["device"]["name"], trainer.session.threads, artifact, where)


def _one_pool_of_threads() -> None:
    """PyTorch's threads would fight with the step's for the cores."""
    import torch

    torch.set_num_threads(1)
