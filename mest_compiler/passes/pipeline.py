"""The order of the passes, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import tvm
from tvm import relax, tirx

from mest_compiler.devices import Device
from mest_compiler.errors import DeviceError
from mest_compiler.frontend import TrainingGraph
from mest_compiler.frontend.ops import plain_legalizations
from mest_compiler.kernels.problem import LayerProblem
from mest_compiler.optimizers import Optimizer
from mest_compiler.schedules import backend_of
from mest_compiler.schedules.choice import Choice
from mest_compiler.signature import STEP, UPDATE, Role
from mest_compiler.sparsity.layer_spec import SparseLayerSpec

from .accumulate_gradients import AccumulateGradients
from .append_optimizer import AppendOptimizer
from .check_limits import check_limits
from .dataflow import Schedule
from .fuse_backward_sums import FuseBackwardSums
from .fuse_forward_inputs import FuseForwardInputs
from .fuse_forward_sums import FuseForwardSums
from .fuse_normalise import FuseNormalise
from .fuse_weight_gradients import FuseWeightGradients
from .half_storage import FLOAT16, HalfStorage, stores_half
from .options import PLAIN, TVM, StepOptions
from .plan_memory import PlanMemory
from .recompute import Recompute
from .run import OnModule, Watch, through, unwatched
from .sparsify_layers import SparsifyLayers
from .step_program import StepProgram
from .tile_batch import TileBatch
from .tiling.plan import Pick
from .verify_plan import verify_plan

REWRITES = ("forward_sums", "backward_sums", "weight_gradients", "forward_inputs")
"""Options that take kernels of their own."""


def probable(direction: str, layer: LayerProblem, found: Sequence[Choice]) -> Choice:
    """The kernel that the rules of `schedules` take for the fastest, unmeasured."""
    return found[0]


def supported(options: StepOptions, device: Device) -> StepOptions:
    """The options without the default rewrites that a device has no kernels for.

    Raises:
        DeviceError: it has none for an option that was asked for.
    """
    _check_stored(options, device)
    missing = {name for name in REWRITES if name not in backend_of(device).rewrites}
    asked = [name for name in sorted(missing) if getattr(options, name) and not getattr(PLAIN, name)]
    if asked:
        name = asked[0].replace("_", " ")
        raise DeviceError(f"There are no kernels for the option {name} on {device.kind} devices: leave it out.")
    return replace(options, **dict.fromkeys((name for name in missing if getattr(options, name)), False))


def _check_stored(options: StepOptions, device: Device) -> None:
    stored, known = options.stored, backend_of(device).storage
    if stored not in (None, *known):
        raise DeviceError(
            f"Activations cannot be stored as {stored} on {device.kind} devices, which have {' and '.join(known)}: "
            "ask for one of these."
        )
    if stored == FLOAT16 and not device.halves:
        raise DeviceError(
            f"Activations cannot be stored as {stored} on {device.name}, whose profile says 'halves: false': leave "
            "that out, or change the profile."
        )


def tile(
    graph: TrainingGraph, specs: Mapping[str, SparseLayerSpec], device: Device, options: StepOptions = PLAIN,
    pick: Pick = probable, watch: Watch = unwatched,
) -> StepProgram:  # fmt: skip
    """From the traced step to kernels over batch tiles with compact values."""
    program = StepProgram(graph.module, graph.signature)
    if options.schedules == TVM:
        if specs or not backend_of(device).tvm_schedules:
            raise DeviceError(
                "TVM's own schedules are for dense steps on OpenCL devices: it has none for a CPU's step."
            )
        return program
    options = supported(options, device)
    rewrites = (
        (options.weight_gradients, FuseWeightGradients),
        (options.forward_inputs, FuseForwardInputs),
        (options.forward_sums, FuseForwardSums),
        (options.backward_sums, FuseBackwardSums),
    )
    passes = [
        # What is computed: masked convolutions on compact values, whole normalisations.
        SparsifyLayers(specs),
        OnModule(FuseNormalise()),
        *(OnModule(make()) for wanted, make in rewrites if wanted),
        # Where it lies and which kernel computes it.
        TileBatch(device, pick),
        # How wide it lies in memory.
        *_half_storage(options, device, graph.dtype),
    ]
    return through(program, passes, watch)


def _half_storage(options: StepOptions, device: Device, dtype: str) -> list[HalfStorage]:
    return [HalfStorage(device)] if stores_half(options.stored, dtype) else []


def finish(
    tiled: StepProgram, rule: Optimizer, device: Device, options: StepOptions = PLAIN, schedule: Schedule | None = None,
    micro_batches: int = 1, watch: Watch = unwatched,
) -> StepProgram:  # fmt: skip
    """From there to the whole step: what is computed again, the optimiser, and what is left in Relax as loops.

    schedule: of the tiled step, what it computes again and what waits narrow; None: nothing. micro_batches: how many
    calls of the traced step make up a whole one; see `AccumulateGradients`.
    """
    t, backend, passes = relax.transform, backend_of(device), []
    if schedule is not None and schedule.changes_anything:
        (dtype,) = {arg.dtype for arg in tiled.signature[STEP].of(Role.PARAMETER)}
        # What is computed again is stored as the first time.
        passes += [OnModule(Recompute(device, schedule)), *_half_storage(options, device, dtype)]
    # The optimiser, on the state in place.
    one = micro_batches == 1
    passes.append(AppendOptimizer(device, rule) if one else AccumulateGradients(device, rule))
    # What is left in Relax (the classifier, the loss). Ours are not fused: that is little work, and what stands between
    # two fused kernels would be nobody's plan.
    fused = [t.AnnotateTIROpPattern(), t.FuseOps(), t.FuseTIR()] if options.schedules == TVM else []
    functions = [*tiled.signature, *([] if one else [UPDATE])]
    left = [
        t.LegalizeOps(plain_legalizations(ordered=backend.ordered_loops)),
        t.FoldConstant(),
        *fused,
        t.DeadCodeElimination(functions),
    ]
    passes += map(OnModule, left)
    with device.target:
        finished = through(tiled, passes, watch)
        return finished.mapped(lambda module: backend.generators.plain.bind(module, device))


def lower(
    graph: TrainingGraph, specs: Mapping[str, SparseLayerSpec], rule: Optimizer, device: Device, pick: Pick = probable
) -> StepProgram:
    """`tile` and `finish` without options."""
    return finish(tile(graph, specs, device, pick=pick), rule, device)


def plan(lowered: StepProgram, device: Device, watch: Watch = unwatched) -> StepProgram:
    """Kernels are called on memory whose places are planned."""
    t = relax.transform
    calls = map(OnModule, [t.ToNonDataflow(), t.RemovePurityChecking(), t.CallTIRRewrite()])
    with device.target:
        return through(lowered, [*calls, PlanMemory(device.offsets)], watch)


def _releasing(module: tvm.IRModule) -> tvm.IRModule:
    """The module with a function `release` that returns nothing: the virtual machine holds what the last function
    returned until the next one returns, so two steps' gradients would take memory at the same time."""
    builder = relax.BlockBuilder()
    with builder.function("release", []):
        builder.emit_func_output(relax.Tuple([]))
    return tvm.IRModule({**module.functions, **builder.get().functions}, attrs=module.attrs)


def _promising(module: tvm.IRModule, distinct: bool) -> tvm.IRModule:
    """The module with kernels that all promise, or none of which promises, that their buffers do not alias: TVM takes
    those generated after one that does at its word too."""
    return tvm.IRModule(
        {
            gvar: f.with_attr("tirx.noalias", distinct) if isinstance(f, tirx.PrimFunc) else f
            for gvar, f in module.functions.items()
        },
        attrs=module.attrs,
    )


def build(planned: StepProgram, device: Device) -> relax.VMExecutable:
    """Machine code.

    Raises:
        DeviceError: a kernel is beyond the limits of the device. PlanError: the plan is wrong.
    """
    verify_plan(planned.module, device, {name: found.donated for name, found in planned.signature.items()})
    check_limits(planned.module, device)
    t = relax.transform
    with device.target:
        module = tvm.transform.Sequential(
            [
                t.LowerAllocTensor(),
                t.KillAfterLastUse(),
                t.LowerRuntimeBuiltin(),
                t.ComputePrimValue(),
                t.VMShapeLower(),
                t.AttachGlobalSymbol(),
            ]
        )(_promising(_releasing(planned.module), backend_of(device).noalias))
        with tvm.transform.PassContext(disabled_pass=list(device.needless_passes)):
            return relax.build(module, device.target, relax_pipeline=None, tir_pipeline=device.pipeline)
