"""The one way from a model and its masks to an artifact: frontend, passes, schedules, build, in that order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
from torch import nn

from .devices import Device, get_device
from .devices.machine_code import needs_of
from .errors import MaskError, ModelError, ProfileError
from .frontend import TrainingGraph, trace
from .linking import library_bytes
from .losses import CrossEntropy, Loss
from .losses.base import INPUT, LABEL
from .optimizers import Optimizer, Sgd
from .passes.dump import Dump
from .passes.fallbacks import fallback_report
from .passes.fit_memory import Fitted, Fitter
from .passes.layer_kernels import LayerKernels
from .passes.options import PLAIN, StepOptions
from .passes.pipeline import build, tile
from .passes.run import unwatched
from .passes.tiling.plan import Pick
from .runtime.artifact import SCHEMA, Artifact
from .runtime.local_device import identified
from .signature import Role, TensorSpec
from .sparsity import structure
from .sparsity.automatic import AUTO, Automatic
from .sparsity.decisions import Decisions, unfit
from .sparsity.layer_spec import SparseLayerSpec
from .sparsity.mutation_schedule import units_at
from .sparsity.profile import Profile
from .sparsity.schemes import get_scheme
from .sparsity.starting_masks import NO_ZEROS, starting_masks
from .sparsity.structure import Structure
from .tuning.fastest import Fastest
from .tuning.records import TunedOrProbable
from .tuning.schemes import fastest_schemes

LOG = logging.getLogger(__name__)

PHASES = ("trace", "masks", "lower", "build", "pack")
Progress = Callable[[str], None]


def compile_step(
    model: nn.Module,
    *,
    input_shape: Sequence[int] | None = None,
    inputs: Mapping[str, TensorSpec] | None = None,
    batch: int,
    profile: Profile | Automatic | None = None,
    masks: Mapping[str, np.ndarray] | None = None,
    masks_from_weights: bool = False,
    seed: int = 0,
    headroom: float = 0.0,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    device: str = "cpu",
    threads: int | None = None,
    dtype: str = "float32",
    name: str = "",
    progress: Progress | None = None,
    measure: bool = True,
    pick: Pick | None = None,
    options: StepOptions = PLAIN,
    dump: Path | None = None,
) -> Artifact:
    """Compiles a model's whole training step: forward, loss, backward, update, and its prediction.

    Args:
        model: maps inputs [N, ...] to outputs [N, ...]: a tensor, a tuple of them or a dict; left as it is. Parameters
            with requires_grad=False are frozen: they get no gradient and no update, and stay dense.
        input_shape: of one example, for a model of one input of its own dtype: channels, height, width, say.
        inputs: of a model of several inputs, or of another dtype: shape of one example and dtype of each, by the
            names that its forward gives them (or by others, in its order). Either this or `input_shape`.
        batch: examples of a step, fixed in the artifact.
        profile: which layers are sparse, under which scheme, at which ratio; None: none; `Automatic`: the scheme that
            is the fastest in each layer, measured. What was asked of each layer, what it got and why it stayed dense
            stands in the manifest's `asked` and `done`.
        masks: bool [F, C, kh, kw] by parameter name for all layers of the profile; None: random balanced ones
            from `seed`.
        masks_from_weights: take the masks from the zeros of the model's weights instead.
        headroom: by how much the sparsity of a layer may fall below that of its masks without compiling again: p of
            the soft-bounded mutation EM&S, whose memory is that of s - p. 0: the masks' units are all there is room
            for.
        loss: of the outputs, see `losses`; None: cross-entropy of logits [N, classes] and labels int64 [N].
        optimizer: SGD, Adam or AdamW with their settings, see `optimizers`; the learning rate is a run-time input.
        device: "cpu", "opencl", "galaxy-s20", or the path of a YAML profile; see `devices`. threads: of the CPU that
            its kernels are made for; None: all cores.
        dtype: "float32", or "float64" for comparisons.
        name: the model's name for the manifest. progress: called with each of `PHASES` as it begins, and
            with "lower: ..." for every layer that is measured.
        measure: time the kernels that can compute a sparse layer, its dense one with zeros kept among them, and take
            the fastest (remembered in the user's cache folder, see `tuning.fastest`); False takes the probable one, and
            so does a device that is no part of this machine.
            Either way with tuned knobs where a tuning log has some (see `tuning.records`).
        pick: decides about every kernel and its knobs instead, and nothing is measured or looked up.
        options: less memory or fewer passes over it; see `StepOptions`.
        dump: a folder that takes the step as each pass leaves it, and its kernels; see `passes.dump`.

    Raises:
        ModelError, ProfileError, MaskError, DeviceError, MemoryLimitError: one sentence each.
    """
    begin, say = time.perf_counter(), _logged(progress or (lambda phase: None))
    rule, rule_of_loss = optimizer or Sgd(), loss or CrossEntropy()
    specs = _specs(input_shape, inputs, dtype)
    if batch < 1:
        raise ModelError(f"A batch of {batch} examples cannot be trained on: use at least 1.")
    target = get_device(device, threads)
    target.lanes(dtype)
    say("trace")

    def retrace(size: int) -> TrainingGraph:
        return _trace(model, specs, size, dtype, rule_of_loss, in_parts=size < batch)

    graph = retrace(_micro_batch(batch, options))
    say("masks")
    if measure and target.here and pick is None:
        target = identified(target)
    fastest = Fastest(target, lambda what: say(f"lower: measuring {what}"))
    automatic = isinstance(profile, Automatic)
    if automatic:
        if not target.here:
            raise ProfileError(
                f"Scheme 'auto' measures kernels here, and {target.name} is no part of this machine: name a scheme, or "
                "a profile."
            )
        if masks_from_weights:
            weights = {p: graph.state[p] != 0 for p, c in graph.convolutions.items() if c.groups == 1}
            masks, masks_from_weights = {p: mask for p, mask in weights.items() if not mask.all()}, False
            if not masks:
                raise MaskError(NO_ZEROS)
        dense = tile(graph, {}, target).layers
        found = {p: dense[p].problem.geometry for p, c in graph.convolutions.items() if c.groups == 1}
        profile = fastest_schemes(profile, found, fastest, masks)
    decisions, structures = _structures(graph, profile, masks, masks_from_weights, seed, target, headroom)
    if automatic:
        decisions = replace(decisions, scheme=AUTO)
    say("lower")
    dumped = None if dump is None else Dump(dump)
    fitter = Fitter(_specs_of(structures), rule, target, options, dumped or unwatched)
    if pick is None:
        pick = fastest if measure and target.here else TunedOrProbable(fastest.records)
    fitted = fitter.fit(graph, batch, retrace, pick)
    say("build")
    executable = build(fitted.planned, target)
    if dumped is not None:
        dumped.kernels(fitted.planned, executable.mod, target)
    say("pack")
    library = library_bytes(executable, target)
    tensors = {
        p: structures[p].compact(value.reshape(structures[p].spec.shape)) if p in structures else value
        for p, value in graph.state.items()
    }
    manifest = _manifest(fitted, decisions, structures, rule, target, device, name, batch)
    manifest["loss"] = rule_of_loss.facts()
    manifest["compile_seconds"] = round(time.perf_counter() - begin, 3)
    LOG.info("compiled %s in %.2f s", name or "the step", manifest["compile_seconds"])
    return Artifact(manifest, library, tensors, structures)


def _logged(say: Progress) -> Progress:
    """The same, with each phase in the log once the next one begins."""
    running = []

    def logged(what: str) -> None:
        now = time.perf_counter()
        if running:
            LOG.info("%s: %.2f s", running[0], now - running[1])
        running[:] = what, now
        say(what)

    return logged


def planned_layers(
    model: nn.Module,
    *,
    input_shape: tuple[int, int, int],
    batch: int,
    profile: Profile | None,
    masks: Mapping[str, np.ndarray] | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> dict[str, LayerKernels]:
    """Each convolution and sparse linear layer of a compiled step with its kernels by direction, without compiling it.

    Arguments and errors as `compile_step`; the kernels are the probable ones.
    """
    target = get_device(device, threads)
    graph = _trace(model, _specs(input_shape, None, "float32"), batch, "float32", CrossEntropy())
    _, structures = _structures(graph, profile, masks, False, 0, target, 0.0)
    return tile(graph, _specs_of(structures), target).layers


def planned_bytes(model: nn.Module, **asked: Any) -> dict[str, dict[str, int]]:
    """Bytes that a step with SGD allocates for each convolution and sparse linear layer, without compiling it.

    Arguments and errors as `planned_layers`. Returns {parameter name: {"weights", "gradients", "optimizer",
    "indices"}}.
    """
    return {p: layer.state_bytes(len(Sgd().slots)) for p, layer in planned_layers(model, **asked).items()}


def planned_memory(
    model: nn.Module,
    *,
    input_shape: tuple[int, int, int],
    batch: int,
    profile: Profile | None = None,
    options: StepOptions = PLAIN,
    device: str = "cpu",
    threads: int | None = None,
) -> dict[str, object]:
    """What the artifact's manifest would say of its "memory", without building code.

    Arguments and errors as `compile_step`; the kernels are the probable ones.
    """
    target, specs = get_device(device, threads), _specs(input_shape, None, "float32")

    def retrace(size: int) -> TrainingGraph:
        return _trace(model, specs, size, "float32", CrossEntropy(), in_parts=size < batch)

    graph = retrace(_micro_batch(batch, options))
    _, structures = _structures(graph, profile, None, False, 0, target, 0.0)
    rule = Sgd()
    return Fitter(_specs_of(structures), rule, target, options).fit(graph, batch, retrace).describe()


def _micro_batch(batch: int, options: StepOptions) -> int:
    """How many examples of a batch go through the network at a time."""
    size = batch if options.micro_batch is None else options.micro_batch
    if not 1 <= size <= batch or batch % size:
        divisors = [str(n) for n in range(1, batch + 1) if batch % n == 0]
        raise ModelError(
            f"A batch of {batch} examples cannot be split into micro-batches of {size}: use a divisor of the batch "
            f"({', '.join(divisors)})."
        )
    return size


def _specs(
    input_shape: Sequence[int] | None, inputs: Mapping[str, TensorSpec] | None, dtype: str
) -> dict[str, TensorSpec]:
    """An example's inputs by name."""
    if (input_shape is None) == (not inputs):
        raise ModelError("The shape of an example is needed, once: give input_shape, or inputs with their shapes.")
    return dict(inputs) if inputs else {INPUT: TensorSpec(tuple(input_shape), dtype)}


def _trace(
    model: nn.Module,
    inputs: Mapping[str, TensorSpec],
    batch: int,
    dtype: str,
    loss: Loss,
    in_parts: bool = False,
) -> TrainingGraph:
    kind = {"float32": torch.float32, "float64": torch.float64}[dtype]
    if any(p.dtype != kind for p in model.parameters()):
        raise ModelError(
            f"The model's parameters are not {dtype}: convert it first, for example with model.to(torch.{dtype})."
        )
    examples = {n: torch.zeros(batch, *spec.shape, dtype=getattr(torch, spec.dtype)) for n, spec in inputs.items()}
    return trace(model, examples, loss, in_parts)


def _structures(
    graph: TrainingGraph,
    profile: Profile | None,
    masks: Mapping[str, np.ndarray] | None,
    from_weights: bool,
    seed: int,
    device: Device,
    headroom: float,
) -> tuple[Decisions, dict[str, Structure]]:
    """What each layer gets, and the index arrays of those that are sparse."""
    convolutions = {n: c.shape for n, c in graph.convolutions.items() if c.groups == 1 and n not in graph.frozen}
    linears = {name: shape for name, shape in graph.linears.items() if name not in graph.frozen}
    every = {name: c.shape for name, c in graph.convolutions.items()} | graph.linears
    others = {name: shape for name, shape in every.items() if name not in {**convolutions, **linears}}
    decisions, chosen = starting_masks(
        profile, convolutions, linears, graph.state, dense=unfit(others, graph.frozen), masks=masks,
        from_weights=from_weights, seed=seed,
    )  # fmt: skip
    built = {}
    plans = decisions.plans
    for name in (name for name in graph.parameters if name in plans):
        capacity = _capacity(name, plans[name].scheme, chosen[name], headroom)
        built[name] = structure.build(chosen[name], plans[name].scheme, capacity, device.threads)
    return decisions, built


def _capacity(name: str, scheme: str, mask: np.ndarray, headroom: float) -> int | None:
    """Units that a layer needs room for; None: those of its mask."""
    if not headroom:
        return None
    kind, shape = get_scheme(scheme), tuple(mask.shape)
    base = len(kind.units_of(mask))
    return max(base, units_at(name, kind, shape, base, -headroom))


def _specs_of(structures: Mapping[str, Structure]) -> dict[str, SparseLayerSpec]:
    """What the passes have to know of the structures."""
    return {param: structure.spec for param, structure in structures.items()}


def _manifest(
    fitted: Fitted,
    decisions: Decisions,
    structures: Mapping[str, Structure],
    rule: Optimizer,
    target: Device,
    device: str,
    name: str,
    batch: int,
) -> dict[str, object]:
    graph, compiled, layers, needs = fitted.graph, fitted.planned, {}, needs_of(target.target)
    masks = {param: structure.to_mask() for param, structure in structures.items()}
    names = (*graph.parameters, *graph.frozen)
    for param in (param for param in names if param in compiled.layers):
        layer = compiled.layers[param]
        layers[param] = {
            "scheme": "dense",
            "sparsity": 1 - masks[param].mean() if param in masks else 0.0,
            "shape": list(layer.problem.geometry.weight_shape),
            "bytes": layer.state_bytes(len(rule.slots)),
            "kernels": {
                direction: {**choice.describe(), "function": layer.functions[direction]}
                for direction, choice in layer.choices.items()
            },
        }
        if layer.problem.sparse is not None:
            layers[param] |= {**layer.problem.to_json(), "unit_size": layer.problem.sparse.unit_size}
    return {
        "schema": SCHEMA,
        "tvm": tvm.__version__,
        "device": {**asdict(target), "name": device, "kind": target.kind},
        "needs": {"triple": needs.triple, "features": list(needs.features)},
        "model": name,
        "batch": batch,
        "micro_batch": graph.batch,
        **_examples(graph),
        "dtype": graph.dtype,
        "seeded": graph.seeded,
        "optimizer": rule.facts(),
        "parameters": {p: list(graph.state[p].shape) for p in graph.parameters},
        "frozen": {p: list(graph.state[p].shape) for p in graph.frozen},
        "buffers": {b: list(graph.state[b].shape) for b in graph.buffers},
        "signature": {name: found.to_json() for name, found in compiled.signature.items()},
        "memory": fitted.describe(),
        "fallbacks": fallback_report(graph.module, fitted.tiled, fitted.schedule.flow, rule, target, fitted.parts),
        "asked": decisions.asked(),
        "done": decisions.done(masks),
        "layers": layers,
    }


def _examples(graph: TrainingGraph) -> dict[str, object]:
    """What the step takes and gives of an example, as JSON values; `input_shape` where it takes one tensor, and
    `classes` where its target is a label."""
    outputs = [result for result in graph.step.results if result.role is Role.OUTPUT]
    parts = {
        "inputs": graph.step.of(Role.INPUT), "targets": graph.step.of(Role.TARGET), "outputs": outputs,
    }  # fmt: skip
    found = {key: {arg.name: [list(arg.shape[1:]), arg.dtype] for arg in args} for key, args in parts.items()}
    inputs, outputs = (list(found[key].values()) for key in ("inputs", "outputs"))
    labels = len(outputs) == 1 and list(found["targets"].values()) == [[list(LABEL.shape), LABEL.dtype]]
    return {
        **found,
        "input_shape": inputs[0][0] if len(inputs) == 1 else None,
        "classes": outputs[0][0][-1] if labels else None,
    }
