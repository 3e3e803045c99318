"""What Relax's own legalizations leave (the classifier, the loss) on OpenCL devices: loops become grids of work-items.

Little work: so each result is one item's, which sums up in a register; where there are few results of long sums,
parts of them are taken first, by a launch of its own. No items wait for each other.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.dlight.analysis import SBlockInfo, normalize_prim_func
from tvm.s_tir.dlight.base import try_inline

from mest_compiler.devices.opencl import OpenClProfile
from mest_compiler.errors import DeviceError

from ..emit import Expr
from .emit import C_NAMES, number

SMALL_GROUP, GROUP = 64, 256  # work-items of a work-group, with few results and with many
MANY = 4096  # results
LONG, PARTS = 512, 64  # sums of so many numbers are split in so many parts, unless there are many of them


def bind(module: tvm.IRModule, device: OpenClProfile) -> tvm.IRModule:
    """The module with every function of loops bound to work-items, which generated kernels are, and every constant
    written to the last bit."""
    functions = {}
    for gvar, f in module.functions.items():
        if isinstance(f, tirx.PrimFunc):
            f = _exact(f if _has_threads(f) else _bound(gvar.name_hint, f))
        functions[gvar] = f
    return tvm.IRModule(functions, attrs=module.attrs)


def _exact(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with its constants as `number` writes them: those of Relax's operators are TVM's own."""

    def constant(node: tirx.FloatImm) -> Expr:
        dtype = str(node.ty.dtype)
        if dtype not in C_NAMES:
            return node
        exact = number(node.value, dtype)
        return node if isinstance(exact, tirx.FloatImm) else exact

    body = tvm_ffi.structural_map(function.body, [(tirx.FloatImm, constant)])
    if body.same_as(function.body):
        return function
    return tirx.PrimFunc(function.params, body, function.ret_type, attrs=function.attrs)


def _has_threads(function: tirx.PrimFunc) -> bool:
    """Whether any of its loops is bound to work-items."""
    found = []

    def look(loop: tirx.For) -> None:
        if loop.kind == tirx.ForKind.THREAD_BINDING:
            found.append(loop)

    tvm_ffi.structural_walk(function.body, [(tirx.For, look)], order="post")
    return bool(found)


def _bound(name: str, function: tirx.PrimFunc) -> tirx.PrimFunc:
    schedule = s_tir.Schedule(function)
    blocks = normalize_prim_func(schedule)
    if blocks is None:
        raise DeviceError(
            f"The loops of {name} are not one nest a result, so they cannot be bound to work-items: write it as a "
            "kernel, or leave its loops in the order in which they were made."
        )
    for block in try_inline(schedule, blocks):
        schedule = _with_grid(schedule, block)
    bound = schedule.mod["main"]
    symbol = function.attrs.get("global_symbol") if function.attrs is not None else None
    return bound.without_attr("global_symbol") if symbol is None else bound.with_attr("global_symbol", symbol)


def _with_grid(schedule: s_tir.Schedule, block: SBlockInfo) -> s_tir.Schedule:
    """The schedule with a grid over a block's results."""
    rv = block.block_rv
    kinds = block.dom_kind()
    loops = schedule.get_loops(rv)
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "S"]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != "S"]
    if not spatial:
        spatial = [schedule.add_unit_loop(schedule.get_loops(rv)[0] if loops else rv)]
    if reduced:
        schedule.reorder(*spatial, *reduced)
        few = _extent(schedule, spatial) * PARTS <= MANY
        if few and _extent(schedule, reduced) >= LONG and _sums_up(schedule, rv):
            schedule = _in_parts(schedule, spatial, reduced)
    _grid(schedule, rv, len(spatial))
    return schedule


def _in_parts(schedule: s_tir.Schedule, spatial: list, reduced: list) -> s_tir.Schedule:
    """The schedule with partial sums in a grid of their own, where TVM can take them apart (see its `rfactor`)."""
    tried = schedule.copy()
    part, _ = tried.split(tried.fuse(*reduced), [PARTS, None])
    try:
        parts = tried.rfactor(part, len(spatial))
    except tvm.error.InternalError:  # of sums whose terms ask for their own number, as a loss's for its class
        return schedule
    _grid(tried, parts, len(spatial) + 1)
    return tried


def _extent(schedule: s_tir.Schedule, loops: list) -> int:
    product = 1
    for loop in loops:
        product *= int(schedule.get(loop).extent)
    return product


def _sums_up(schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> bool:
    """Whether it is a reduction of one buffer with an initial value, which can be taken in parts."""
    stmt = schedule.get(block)
    return stmt.init is not None and len(stmt.writes) == 1


def _grid(schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV, spatial: int) -> None:
    """Binds the outermost `spatial` loops of a block; its sums, if it takes any, are kept in a register."""
    sums = _sums_up(schedule, block)
    copy = schedule.cache_write(block, 0, "local") if sums else None
    outer = schedule.fuse(*schedule.get_loops(block)[:spatial])
    results = int(schedule.get(outer).extent)
    group, item = schedule.split(outer, [None, min(GROUP if results >= MANY else SMALL_GROUP, results)])
    schedule.bind(group, "blockIdx.x")
    schedule.bind(item, "threadIdx.x")
    if copy is not None:
        schedule.reverse_compute_at(copy, item)
        reduced = schedule.get_loops(block)[2:]
        if reduced:
            schedule.decompose_reduction(block, reduced[0])
