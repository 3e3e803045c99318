"""A compiler pass that lays all intermediate tensors of a function out in planned memory: its arena.

Where a tensor may start anywhere in a block of memory, the arena is one block. Elsewhere (an OpenCL buffer has no
address that could be counted from) it is several, each shared by tensors that do not live at the same time. The
functions of a module never run at the same time and get arenas of the same blocks, so the runtime's pool serves them
all with the same memory. What a function returns is allocated apart and outlives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod

import numpy as np
import tvm
from tvm import relax, tirx

from .arena import Arena
from .program import Program, op_name, relax_functions, variables
from .step_program import StepProgram

ALIGNMENT = 64
"""Bytes: what TVM's kernels may assume of a tensor's address."""


PAGE, ON_STACK = 4096, 1024
"""Bytes that the runtime's pool allocates multiples of, and from which on a kernel's own buffers come from it."""


@dataclass(frozen=True)
class Block:
    """`size` bytes that live from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int


def place(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """An offset for each block such that those that live at the same time do not overlap, and the bytes they span.

    Greedy in several orders, of which the tightest counts; offsets are multiples of `ALIGNMENT`.
    """
    orders = (
        lambda b: (-b.size, b.first),
        lambda b: (-(b.last - b.first), -b.size),
        lambda b: (-b.size * (b.last - b.first + 1), b.first),
        lambda b: (b.first, -b.size),
    )
    indices = range(len(blocks))
    tries = [_greedy(blocks, sorted(indices, key=lambda i, key=key: key(blocks[i]))) for key in orders]
    return min(tries, key=lambda found: found[1], default=([], 0))


def share(blocks: Sequence[Block], sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """A container for each block such that those of one container do not live at the same time, and the containers'
    sizes: first those of `sizes`, in whole pages.

    Greedy, the largest block first: it goes into the tightest container that is free while it lives.
    """
    sizes, inside = list(sizes), [[] for _ in sizes]
    chosen = [0] * len(blocks)
    for i in sorted(range(len(blocks)), key=lambda i: (-blocks[i].size, blocks[i].first)):
        block = blocks[i]
        free = [
            k
            for k, there in enumerate(inside)
            if sizes[k] >= block.size and all(b.last < block.first or block.last < b.first for b in there)
        ]
        if not free:
            free = [len(sizes)]
            sizes.append(_whole(block.size, PAGE))
            inside.append([])
        chosen[i] = min(free, key=lambda k: sizes[k])
        inside[chosen[i]].append(block)
    return chosen, sizes


def _greedy(blocks: Sequence[Block], order: Sequence[int]) -> tuple[list[int], int]:
    """Each block in turn at the lowest offset where it fits."""
    first, last = np.array([b.first for b in blocks], int), np.array([b.last for b in blocks], int)
    size = np.array([_whole(b.size, ALIGNMENT) for b in blocks], int)
    offsets, placed = np.zeros(len(blocks), int), np.zeros(len(blocks), bool)
    for i in order:
        beside = np.flatnonzero(placed & (first <= last[i]) & (last >= first[i]))
        at = 0
        for k in beside[np.argsort(offsets[beside], kind="stable")]:
            if offsets[k] - at >= size[i]:
                break
            at = max(at, offsets[k] + size[k])
        offsets[i], placed[i] = at, True
    return offsets.tolist(), int((offsets + size).max(initial=0))


def alive(blocks: Sequence[Block]) -> list[int]:
    """Bytes that live at each step, up to the last one: no placement takes less than the most of them."""
    change = np.zeros(max((b.last for b in blocks), default=-1) + 2, int)
    for block in blocks:
        change[block.first] += _whole(block.size, ALIGNMENT)
        change[block.last + 1] -= _whole(block.size, ALIGNMENT)
    return list(accumulate(change.tolist()))[:-1]


def _whole(size: int, unit: int) -> int:
    """The size rounded up to whole units."""
    return -(-size // unit) * unit


def _scratch(kernel: tirx.PrimFunc) -> int:
    """Bytes that a kernel from Relax's own legalizations takes from the runtime's pool; generated ones take none."""
    root = getattr(kernel.body, "block", None)
    sizes = [tensor_bytes(b) for b in root.alloc_buffers] if root is not None else []
    return sum(_whole(size, PAGE) for size in sizes if size >= ON_STACK)


def tensor_bytes(tensor: relax.TensorType | tirx.Buffer) -> int:
    """Bytes of a tensor or buffer of static shape."""
    return prod(int(n) for n in tensor.shape) * np.dtype(str(tensor.dtype)).itemsize


class _Lives:
    """Which allocations of a function live from when to when."""

    def __init__(self, program: Program) -> None:
        self.tensors: dict[relax.Var, relax.TensorType] = {}
        self._roots: dict[relax.Var, list[relax.Var]] = {}
        self._items: dict[relax.Var, list[list[relax.Var]]] = {}
        first: dict[relax.Var, int] = {}
        last: dict[relax.Var, int] = {}
        for at, (var, expr) in enumerate(program.bindings):
            for used in variables(expr):
                for root in self.roots(used):
                    first.setdefault(root, at)  # from the call that writes it on
                    last[root] = at
            self._bind(var, expr)
        self.returned = [self.roots(out) for out in program.outputs]
        escaping = {root for roots in self.returned for root in roots}
        # A tensor that nothing touches takes no room.
        self.kept = [var for var in self.tensors if var not in escaping and var in first]
        self.blocks = [Block(tensor_bytes(self.tensors[v]), first[v], last[v]) for v in self.kept]
        self.first_result = next((first[root] for root in self.returned[0] if root in first), 0)

    def _bind(self, var: relax.Var, expr: relax.Expr) -> None:
        if op_name(expr) == "relax.builtin.alloc_tensor":
            self.tensors[var], self._roots[var] = var.ty, [var]
        elif isinstance(expr, relax.Var):
            self._roots[var] = self.roots(expr)
            if expr in self._items:
                self._items[var] = self._items[expr]
        elif isinstance(expr, relax.Tuple):
            self._items[var] = [self.roots(field) for field in expr.fields]
            self._roots[var] = [root for item in self._items[var] for root in item]
        elif isinstance(expr, relax.TupleGetItem):
            self._roots[var] = self._items.get(expr.tuple_value, {int(expr.index): []})[int(expr.index)]

    def roots(self, expr: relax.Expr) -> list[relax.Var]:
        """The allocations that an expression reads or is."""
        return self._roots.get(expr, []) if isinstance(expr, relax.Var) else []


class PlanMemory:
    """Gives every `relax.builtin.alloc_tensor` that does not leave its function a place in the function's arena.

    offsets: whether a tensor may start inside a block of memory. To be run on functions of one straight block, after
    CallTIRRewrite.
    """

    def __init__(self, offsets: bool = True) -> None:
        self.offsets = offsets

    def __call__(self, program: StepProgram) -> StepProgram:
        """The program with its tensors in arenas, and those."""
        module, arenas = self.planned(program.module)
        return replace(program, module=module, arenas=arenas)

    def planned(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, dict[str, Arena]]:
        """A module with its tensors in arenas, and the arena of each function."""
        lives = {name: _Lives(Program.of(function)) for name, function in relax_functions(mod)}
        places, sizes = (_one_block if self.offsets else _several_blocks)(lives)
        scratch = max((_scratch(f) for f in mod.functions.values() if isinstance(f, tirx.PrimFunc)), default=0)
        changed, arenas = tvm.IRModule(dict(mod.functions.items()), attrs=mod.attrs), {}
        for name, function in relax_functions(mod):
            found = lives[name]
            crossing = [b.size for b in found.blocks if b.first <= found.first_result < b.last]
            returned = [sum(_whole(tensor_bytes(found.tensors[v]), PAGE) for v in roots) for roots in found.returned]
            activations = sum(_whole(size, ALIGNMENT) for size in crossing)
            arenas[name] = Arena(sum(sizes), activations, tuple(returned), scratch)
            if places[name]:
                where = dict(zip(found.kept, places[name], strict=True))
                changed.update_func(mod.get_global_var(name), _placed(function, where, sizes))
        return changed, arenas


Places = dict[str, list[tuple[int, int]]]
"""By function: (block, offset in it) of each tensor."""


def _one_block(lives: Mapping[str, _Lives]) -> tuple[Places, list[int]]:
    found = {name: place(live.blocks) for name, live in lives.items()}
    size = _whole(max((total for _, total in found.values()), default=0), PAGE)
    return {name: [(0, offset) for offset in offsets] for name, (offsets, _) in found.items()}, [size]


def _several_blocks(lives: Mapping[str, _Lives]) -> tuple[Places, list[int]]:
    places, sizes = {}, []
    for name, live in lives.items():
        chosen, sizes = share(live.blocks, sizes)
        places[name] = [(container, 0) for container in chosen]
    return places, sizes


def _placed(
    function: relax.Function, where: Mapping[relax.Var, tuple[int, int]], sizes: Sequence[int]
) -> relax.Function:
    """The function with these tensors at (block, offset) of an arena of blocks that it allocates first."""
    memory, builder = relax.op.memory, relax.BlockBuilder()
    arena = [relax.Var(f"arena{i or ''}", relax.AnyType()) for i in range(len(sizes))]
    used = {container for container, _ in where.values()}
    bindings = [
        relax.VarBinding(var, builder.normalize(memory.alloc_storage(relax.ShapeExpr([size]), 0, "global", "uint8")))
        for i, (var, size) in enumerate(zip(arena, sizes, strict=True))
        if i in used
    ]
    (block,) = function.body.blocks
    for binding in block.bindings:
        if binding.var in where:
            container, offset = where[binding.var]
            shape, dtype = binding.value.args[:2]
            part = relax.Var(binding.var.name + "_part", binding.var.ty)
            taken = memory.alloc_tensor(arena[container], offset, shape, dtype)
            bindings.append(relax.VarBinding(part, builder.normalize(taken)))
            # Kernels take tensors that start where their pointer says.
            binding = relax.VarBinding(binding.var, builder.normalize(memory.ensure_zero_offset(part)))
        bindings.append(binding)
    body = relax.SeqExpr([relax.BindingBlock(bindings)], function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)
