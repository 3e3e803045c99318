"""The order of the passes, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import tvm
from tvm import relax, tirx

from mest_compiler.devices import Device
from mest_compiler.errors import DeviceError
from mest_compiler.frontend import TrainingGraph
from mest_compiler.frontend.ops import plain_legalizations
from mest_compiler.kernels.indices import SparseConv
from mest_compiler.kernels.sgd import Sgd
from mest_compiler.schedules import generators
from mest_compiler.schedules.choice import Choice

from .accumulate_gradients import UPDATE, AccumulateGradients
from .append_sgd import AppendSgd
from .check_limits import check_limits
from .dataflow import Schedule
from .fuse_backward_sums import FuseBackwardSums
from .fuse_forward_inputs import FuseForwardInputs
from .fuse_forward_sums import FuseForwardSums
from .fuse_normalise import FuseNormalise
from .fuse_weight_gradients import FuseWeightGradients
from .half_storage import FLOAT16, HalfStorage
from .options import PLAIN, TVM, StepOptions
from .plan_memory import Arena, PlanMemory
from .program import relax_functions
from .recompute import Recompute
from .sparsify_convolutions import SparseLayer, SparsifyConvolutions
from .tile_batch import TileBatch
from .tiling.plan import Pick
from .verify_plan import Donated, verify_plan

REWRITES = ("forward_sums", "backward_sums", "weight_gradients", "forward_inputs")
"""Options that take kernels of their own."""


@dataclass(frozen=True)
class Tiled:
    """A module of kernels and calls over batch tiles, and what the passes know of it. ours: or else a module of whole
    operators on NCHW, for TVM to schedule. half: whether activations are stored as float16."""

    module: tvm.IRModule
    tiles: TileBatch
    ours: bool = True
    half: bool = False


@dataclass(frozen=True)
class Lowered:
    """A module of kernels and calls with its optimiser, the kernels of each layer, and the index arrays each function
    takes. donated: the arguments that each function updates in place. places: which of the step's results each of its
    arguments is; empty where it trains in micro-batches."""

    module: tvm.IRModule
    tiles: TileBatch
    donated: Donated
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class Planned:
    """A module without memory of its own: every tensor has its place, see `Arena`."""

    module: tvm.IRModule
    arenas: dict[str, Arena]
    donated: Donated


def probable(direction: str, layer: SparseConv, found: Sequence[Choice]) -> Choice:
    """The kernel that the rules of `schedules` take for the fastest, unmeasured."""
    return found[0]


def supported(options: StepOptions, device: Device) -> StepOptions:
    """The options without the default rewrites that a device has no kernels for.

    Raises:
        DeviceError: it has none for an option that was asked for.
    """
    _check_stored(options, device)
    missing = {name for name in REWRITES if name not in generators(device).REWRITES}
    asked = [name for name in sorted(missing) if getattr(options, name) and not getattr(PLAIN, name)]
    if asked:
        name = asked[0].replace("_", " ")
        raise DeviceError(f"There are no kernels for the option {name} on {device.kind} devices: leave it out.")
    return replace(options, **dict.fromkeys((name for name in missing if getattr(options, name)), False))


def _check_stored(options: StepOptions, device: Device) -> None:
    stored, known = options.stored, generators(device).STORED
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
    graph: TrainingGraph, layers: Mapping[str, SparseLayer], device: Device, options: StepOptions = PLAIN,
    pick: Pick = probable,
) -> Tiled:  # fmt: skip
    """From the traced step to kernels over batch tiles with compact values."""
    if options.schedules == TVM:
        return _untouched(graph, layers, device, pick)
    options = supported(options, device)
    # What is computed: masked convolutions on compact values, whole normalisations.
    mod = SparsifyConvolutions(graph.parameters, layers)(graph.module)
    mod = FuseNormalise()(mod)
    mod = FuseWeightGradients()(mod) if options.weight_gradients else mod
    mod = FuseForwardInputs()(mod) if options.forward_inputs else mod
    mod = FuseForwardSums()(mod) if options.forward_sums else mod
    mod = FuseBackwardSums()(mod) if options.backward_sums else mod
    # Where it lies and which kernel computes it.
    tiles = TileBatch(device, pick)
    mod = tiles(mod)
    # How wide it lies in memory.
    half = options.stored == FLOAT16 and graph.dtype == "float32"
    return Tiled(HalfStorage(device, _images(graph))(mod) if half else mod, tiles, half=half)


def _images(graph: TrainingGraph) -> int:
    """Position of the images among the arguments of a traced function."""
    return len(graph.parameters) + len(graph.buffers)


def _untouched(graph: TrainingGraph, layers: Mapping[str, SparseLayer], device: Device, pick: Pick) -> Tiled:
    """The dense step as TVM takes it."""
    if layers or device.kind == "cpu":
        raise DeviceError("TVM's own schedules are for dense steps on OpenCL devices: it has none for a CPU's step.")
    tiles = TileBatch(device, pick)
    tiles.index_names = {name: [] for name, _ in relax_functions(graph.module)}
    return Tiled(graph.module, tiles, ours=False)


def finish(
    tiled: Tiled, graph: TrainingGraph, rule: Sgd, device: Device, schedule: Schedule | None = None,
    micro_batches: int = 1,
) -> Lowered:  # fmt: skip
    """From there to the whole step: what is computed again, the optimiser, and what is left in Relax as loops.

    schedule: of the tiled step, what it computes again and what waits narrow; None: nothing. micro_batches: how many
    calls of the traced step make up a whole one; see `AccumulateGradients`.
    """
    tiles = tiled.tiles
    mod = tiled.module if schedule is None else Recompute(device, schedule)(tiled.module)
    if tiled.half and mod is not tiled.module:
        mod = HalfStorage(device, _images(graph))(mod)  # what is computed again, too
    # The optimiser, on the state in place.
    first = _images(graph) + 2 + graph.seeded
    entries = {p: first + i for i, (p, array) in enumerate(tiles.index_names["step"]) if array == "entries"}
    places: tuple[int, ...] = ()
    if micro_batches == 1:
        append = AppendSgd(device, rule, graph.parameters, graph.buffers, entries)
        mod = append(mod)
        places = append.places
    else:
        mod = AccumulateGradients(device, rule, graph.parameters, graph.buffers, entries, micro_batches)(mod)
        tiles.index_names[UPDATE] = [(p, "entries") for p in graph.parameters if p in entries]
    # What is left in Relax (the classifier, the loss).
    t = relax.transform
    functions = [name for name, _ in relax_functions(mod)]
    # Ours are not fused: that is little work, and what stands between two fused kernels would be nobody's plan.
    fused = [] if tiled.ours else [t.AnnotateTIROpPattern(), t.FuseOps(), t.FuseTIR()]
    with device.target:
        mod = tvm.transform.Sequential(
            [
                t.LegalizeOps(plain_legalizations(ordered=device.kind == "cpu")),
                t.FoldConstant(),
                *fused,
                t.DeadCodeElimination(functions),
            ]
        )(mod)
    return Lowered(generators(device).plain.bind(mod, device), tiles, _donated(mod, graph), places)


def _donated(module: tvm.IRModule, graph: TrainingGraph) -> dict[str, frozenset[int]]:
    """Positions of the arguments that are state: see `AppendSgd` and `AccumulateGradients`, which put the momenta, or
    the sums of gradients, before the last argument."""
    weights = len(graph.parameters)
    parameters, buffers = range(weights), range(weights, weights + len(graph.buffers))
    arguments = {name: len(function.params) for name, function in relax_functions(module)}
    last = {name: range(count - 1 - weights, count - 1) for name, count in arguments.items()}
    if UPDATE in arguments:
        return {"step": frozenset((*buffers, *last["step"])), UPDATE: frozenset((*parameters, *last[UPDATE]))}
    return {"step": frozenset((*parameters, *buffers, *last["step"]))}


def lower(
    graph: TrainingGraph, layers: Mapping[str, SparseLayer], rule: Sgd, device: Device, pick: Pick = probable
) -> Lowered:
    """`tile` and `finish` without options."""
    return finish(tile(graph, layers, device, pick=pick), graph, rule, device)


def plan(lowered: Lowered, device: Device) -> Planned:
    """Kernels are called on memory whose places are planned."""
    t, memory = relax.transform, PlanMemory(device.offsets)
    with device.target:
        calls = [t.ToNonDataflow(), t.RemovePurityChecking(), t.CallTIRRewrite(), memory]
        return Planned(tvm.transform.Sequential(calls)(lowered.module), memory.arenas, lowered.donated)


def _releasing(module: tvm.IRModule) -> tvm.IRModule:
    """The module with a function `release` that returns nothing: the virtual machine holds what the last function
    returned until the next one returns, so two steps' gradients would take memory at the same time."""
    builder = relax.BlockBuilder()
    with builder.function("release", []):
        builder.emit_func_output(relax.Tuple([]))
    return tvm.IRModule({**module.functions, **builder.get().functions}, attrs=module.attrs)


def _promising(module: tvm.IRModule, distinct: bool) -> tvm.IRModule:
    """The module with kernels that all promise, or none of which promises, that their buffers do not alias.

    On a CPU none may: ours make no such promise (see `emit.function`), Relax's own do, and TVM takes kernels generated
    after one of those at its word too: sums that are written by name and through pointers came out as NaN. OpenCL
    kernels have no pointers but their arguments, and drivers load ahead only where these are `restrict`.
    """
    return tvm.IRModule(
        {
            gvar: f.with_attr("tirx.noalias", distinct) if isinstance(f, tirx.PrimFunc) else f
            for gvar, f in module.functions.items()
        },
        attrs=module.attrs,
    )


def build(planned: Planned, device: Device) -> relax.VMExecutable:
    """Machine code.

    Raises:
        DeviceError: a kernel is beyond the limits of the device. PlanError: the plan is wrong.
    """
    verify_plan(planned.module, device, planned.donated)
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
        )(_promising(_releasing(planned.module), device.kind != "cpu"))
        with tvm.transform.PassContext(disabled_pass=list(device.needless_passes)):
            return relax.build(module, device.target, relax_pipeline=None, tir_pipeline=device.pipeline)
