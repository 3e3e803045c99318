"""The order of the passes, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm
from tvm import relax

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.frontend import TrainingGraph
from mest_compiler.frontend.ops import plain_legalizations
from mest_compiler.kernels.indices import SparseConv
from mest_compiler.schedules.cpu.choose import Choice
from mest_compiler.schedules.cpu.sgd import Sgd

from .append_sgd import AppendSgd
from .fuse_normalise import FuseNormalise
from .sparsify_convolutions import SparseLayer, SparsifyConvolutions
from .tile_batch import TileBatch
from .tiling.plan import Pick


@dataclass(frozen=True)
class Lowered:
    """A module of kernels and calls, the kernels of each layer, and the index arrays each function takes."""

    module: tvm.IRModule
    tiles: TileBatch


def probable(direction: str, layer: SparseConv, found: Sequence[Choice]) -> Choice:
    """The kernel that the rules of `schedules` take for the fastest, unmeasured."""
    return found[0]


def lower(
    graph: TrainingGraph, layers: Mapping[str, SparseLayer], rule: Sgd, device: CpuProfile, pick: Pick = probable
) -> Lowered:
    """From the traced step to kernels over batch tiles with compact values and the update in place."""
    # Phase 1. What is computed: masked convolutions on compact values, whole normalisations.
    mod = SparsifyConvolutions(graph.parameters, layers)(graph.module)
    mod = FuseNormalise()(mod)
    # Phase 2. Where it lies and which kernel computes it.
    tiles = TileBatch(device, pick)
    mod = tiles(mod)
    # Phase 3. The optimiser, on the state in place.
    first = len(graph.parameters) + len(graph.buffers) + 2 + graph.seeded
    entries = {p: first + i for i, (p, array) in enumerate(tiles.index_names["step"]) if array == "entries"}
    mod = AppendSgd(device, rule, graph.parameters, graph.buffers, entries)(mod)
    # Phase 4. What is left in Relax (the classifier, the loss), as loops.
    t = relax.transform
    with device.target:
        mod = tvm.transform.Sequential(
            [
                t.LegalizeOps(plain_legalizations()),
                t.AnnotateTIROpPattern(),
                t.FoldConstant(),
                t.FuseOps(),
                t.FuseTIR(),
                t.DeadCodeElimination(["step", "predict"]),
            ]
        )(mod)
    return Lowered(mod, tiles)


def build(module: tvm.IRModule, device: CpuProfile) -> relax.VMExecutable:
    """Memory planned, calls lowered, machine code."""
    t = relax.transform
    with device.target:
        module = tvm.transform.Sequential(
            [
                t.ToNonDataflow(),
                t.RemovePurityChecking(),
                t.CallTIRRewrite(),
                t.StaticPlanBlockMemory(),
                t.LowerAllocTensor(),
                t.KillAfterLastUse(),
                t.LowerRuntimeBuiltin(),
                t.ComputePrimValue(),
                t.VMShapeLower(),
                t.AttachGlobalSymbol(),
            ]
        )(module)
        return relax.build(module, device.target, relax_pipeline=None)
