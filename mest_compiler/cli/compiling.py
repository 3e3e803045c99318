"""Compiling as several commands do it: with a bar over its phases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mest_compiler.cli.bars import phase_bar

if TYPE_CHECKING:
    from torch import nn

    from mest_compiler.bench.torch_network import NetworkCase
    from mest_compiler.runtime.artifact import Artifact
    from mest_compiler.sparsity.profile import Profile


def compile_with_bar(title: str, model: nn.Module, **arguments: Any) -> Artifact:
    """`compile.compile_step` of the model and its other arguments."""
    from mest_compiler.compile import PHASES, compile_step

    with phase_bar(f"compiling {title}", PHASES) as begin:
        return compile_step(model, progress=begin, **arguments)


def compiled(case: NetworkCase, profile: Profile | None, *, device: str, threads: int, title: str) -> Artifact:
    """The step of a bench's network, with the optimiser that its opponents have."""
    from mest_compiler.bench.inputs import MOMENTUM, WEIGHT_DECAY
    from mest_compiler.schedules.cpu.sgd import Sgd

    return compile_with_bar(
        title,
        case.network(),
        input_shape=tuple(case.input_shape),
        batch=case.batch,
        profile=profile,
        seed=case.seed,
        optimizer=Sgd(MOMENTUM, WEIGHT_DECAY, nesterov=False),
        device=device,
        threads=threads,
        name=case.model,
    )
