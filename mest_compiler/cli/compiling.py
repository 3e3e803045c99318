"""Compiling as several commands do it: with a bar over its phases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mest_compiler.cli.bars import phase_bar
from mest_compiler.cli.output import say
from mest_compiler.cli.tables import mib
from mest_compiler.passes.options import PLAIN, StepOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import nn

    from mest_compiler.bench.torch_network import NetworkCase
    from mest_compiler.runtime.artifact import Artifact
    from mest_compiler.sparsity.automatic import Automatic
    from mest_compiler.sparsity.profile import Profile


MOST = 3
"""Operators without kernels of ours that a sentence names; `mest -v compile` and --json name all."""


def compile_with_bar(title: str, model: nn.Module, **arguments: Any) -> Artifact:
    """`compile.compile_step` of the model and its other arguments."""
    from mest_compiler.compile import PHASES, compile_step

    with phase_bar(f"compiling {title}", PHASES) as begin:
        return compile_step(model, progress=begin, **arguments)


def compiled(
    case: NetworkCase,
    profile: Profile | None,
    *,
    device: str,
    threads: int,
    title: str,
    options: StepOptions = PLAIN,
    measure: bool = True,
    masks: Mapping[str, np.ndarray] | None = None,
) -> Artifact:
    """The step of a bench's network, with the optimiser that its opponents have. measure, masks: as `compile_step`."""
    from mest_compiler.bench.inputs import MOMENTUM, WEIGHT_DECAY
    from mest_compiler.optimizers import Sgd

    return compile_with_bar(
        title,
        case.network(),
        input_shape=tuple(case.input_shape),
        batch=case.batch,
        profile=profile,
        masks=masks,
        seed=case.seed,
        optimizer=Sgd(MOMENTUM, WEIGHT_DECAY, nesterov=False),
        device=device,
        threads=threads,
        name=case.model,
        measure=measure,
        options=options,
    )


def say_plan(memory: Mapping[str, Any], name: str = "") -> None:
    """Print what the compiler planned for the memory of a step (of this name, where there are several): the `memory` of
    its manifest."""
    again = sum(memory["recomputed"].values())
    of = f" of {name}" if name else ""
    parts = [f"planned peak of training memory{of}: {mib(memory['planned_peak'])} MiB"]
    if memory["stored"] == "bfloat16":
        parts.append("activations wait for the backward pass as bf16")
    if memory["stored"] == "float16":
        parts.append("activations lie in memory as fp16")
    if again:
        parts.append(f"{mib(again)} MiB are computed again in the backward pass")
    if memory["micro_batches"] > 1:
        parts.append(
            f"a batch is trained as {memory['micro_batches']} parts of {memory['micro_batch']} examples, over each of "
            "which batch norm takes its statistics"
        )
    say("; ".join(parts))


def say_fallbacks(fallbacks: Mapping[str, Any]) -> None:
    """Print which operators run by generic kernels or are laid out for them: the `fallbacks` of a manifest; nothing
    where there are none."""
    if fallbacks["operators"] and not warn_of_fallbacks(fallbacks):
        say(_fallbacks(fallbacks))


def warn_of_fallbacks(fallbacks: Mapping[str, Any]) -> bool:
    """Print the same where they take more of the step's time than is worth a warning; whether they do."""
    from mest_compiler.passes.fallbacks import WORTH_A_WARNING

    much = fallbacks["share"] > WORTH_A_WARNING
    if much:
        say(f"warning: {_fallbacks(fallbacks)}; docs/models.md says which have kernels here")
    return much


def _fallbacks(fallbacks: Mapping[str, Any]) -> str:
    operators = fallbacks["operators"]
    named = [f"{one['operator']} in {one['module'] or 'the forward'} {one['share']:.1%}" for one in operators[:MOST]]
    named += [f"{len(operators) - MOST} more"] if len(operators) > MOST else []
    return (
        f"{len(operators)} operator{'s' if operators[1:] else ''} run by generic kernels or outside batch tiles, "
        f"{fallbacks['share']:.1%} of the step's estimated time: {', '.join(named)}"
    )


def settled(rules: Profile | Automatic, artifact: Artifact) -> Profile:
    """The rules, with the schemes that "auto" chose for the artifact: measured again they could be others."""
    from mest_compiler.sparsity.automatic import Automatic
    from mest_compiler.sparsity.profile import LayerPlan, Profile

    if not isinstance(rules, Automatic):
        return rules
    of_layers = artifact.manifest["layers"]
    ratios = {
        name: 1 - float(one.to_mask().mean()) if rules.sparsity is None else rules.sparsity
        for name, one in artifact.structures.items()
    }
    layers = {name: LayerPlan(of_layers[name]["scheme"], ratio) for name, ratio in ratios.items()}
    return Profile(LayerPlan("unstructured", 0.0), layers=layers)
