"""A check of planned memory before code is made of it: that no kernel finds in memory what it was not meant to find.

It shares nothing with the planner but the module: who reads and writes what comes from the kernels' own bodies, how
long a tensor lives from the calls, and where it lies from the operators that the runtime will execute.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.tirx.buffer import BufferType

from mest_compiler.devices import Device
from mest_compiler.errors import PlanError

from .kernel_accesses import Accesses, accesses
from .program import op_name, relax_functions

Donated = Mapping[str, Collection[int]]
"""By function: positions of the arguments that it updates in place; all others it may only read."""

ALLOC_STORAGE, PLACE, APART, SAME = (
    "relax.memory.alloc_storage",
    "relax.memory.alloc_tensor",
    "relax.builtin.alloc_tensor",
    "relax.memory.ensure_zero_offset",
)
BLOCK_ALIGNMENT = 64
"""Bytes: what TVM's runtime allocates blocks of memory at multiples of."""


def verify_plan(module: tvm.IRModule, device: Device, donated: Donated) -> None:
    """Fails unless all functions of a planned module (see `PlanMemory`) leave every value alone until it was last read.

    In each function: tensors that live at the same time, from the call that first touches one to the last that does,
    share no byte; each lies inside its block, at an address that the kernels and the device take; kernels get tensors
    of the shapes and dtypes that they declare; nothing is read that nothing wrote, or that was written over since; what
    is written in place is an intermediate tensor or a donated argument, every donated argument is, and no other
    argument of the same call is the same memory; what is returned lies in no block, and all else does.

    Raises:
        PlanError: the first thing that is not so.
    """
    kernels = {gvar: _Kernel.of(f) for gvar, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
    for name, function in relax_functions(module):
        _Walk(name, device, kernels, donated.get(name, ())).run(function)


@dataclass(frozen=True)
class _Form:
    """What a kernel's code counts on in an argument: shape, with a variable for a dimension that it leaves open, dtype,
    and bytes that its address is a multiple of."""

    shape: tuple[int | tirx.Var, ...]
    dtype: str
    alignment: int

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(str(n) for n in self.shape)}]"


@dataclass(frozen=True)
class _Kernel:
    """A kernel as its callers have to know it. A form is None where the argument is no tensor."""

    forms: tuple[_Form | None, ...]
    accesses: Accesses

    @classmethod
    def of(cls, function: tirx.PrimFunc) -> _Kernel:
        return cls(tuple(_form(param.ty) for param in function.params), accesses(function))


def _form(ty: tvm.ir.Type) -> _Form | None:
    if not isinstance(ty, BufferType):
        return None
    shape = tuple(int(n) if isinstance(n, tirx.IntImm) else n for n in ty.shape)
    return _Form(shape, str(ty.dtype), int(ty.data_alignment))


@dataclass(eq=False)
class _Memory:
    """Bytes that one tensor takes: `size` from `offset` on of a block, or memory of its own (block None).

    version: how often it was written; an argument starts with one. first, last: numbers of the calls that touch it,
    -1: none does. made, used: their kernels.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    block: relax.Var | None = None
    offset: int = 0
    fixed: str = ""
    version: int = 0
    first: int = -1
    last: int = -1
    made: str = ""
    used: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        kind = tvm.DataType(self.dtype)
        return prod(self.shape) * kind.itemsize

    @property
    def form(self) -> str:
        """Dtype and shape, for errors."""
        return f"{self.dtype} {list(self.shape)}"

    @property
    def place(self) -> str:
        """Where it lies, for errors."""
        return f"{self.name} (bytes {self.offset} to {self.offset + self.size} of {self.block.name})"

    @property
    def life(self) -> str:
        """From when to when it lives, for errors."""
        return f"from {self.made} to {self.used}"


@dataclass(frozen=True)
class _Value:
    """What a variable stands for: the content of a memory after it was written `version` times."""

    memory: _Memory
    version: int

    @property
    def current(self) -> bool:
        """Whether it is still there."""
        return self.version == self.memory.version


_Bound = _Value | tuple["_Bound", ...]


class _Walk:
    """One function from its first binding to its last."""

    def __init__(
        self, name: str, device: Device, kernels: Mapping[tvm.ir.GlobalVar, _Kernel], donated: Collection[int]
    ) -> None:
        self.name, self.device, self.kernels = name, device, kernels
        self.donated = frozenset(donated)
        self.blocks: dict[relax.Var, int] = {}  # bytes
        self.placed: dict[relax.Var, list[_Memory]] = {}  # in each block
        self.apart: list[_Memory] = []
        self.bound: dict[relax.Var, _Bound] = {}
        self.calls = 0
        self.written: set[_Memory] = set()  # by the last call, until its result is bound

    def run(self, function: relax.Function) -> None:
        """All checks."""
        arguments = [self._argument(i, param) for i, param in enumerate(function.params)]
        for block in function.body.blocks:
            for binding in block.bindings:
                self._bind(binding.var, binding.value)
        self._check_results(function.body.body)
        for memory, position in ((arguments[i], i) for i in sorted(self.donated)):
            if memory.version == 1:
                self._fail(f"argument {position}, {memory.name}, is donated to be updated, and no call writes it")
        for tensors in self.placed.values():
            self._check_overlaps(tensors)

    def _fail(self, what: str) -> None:
        raise PlanError(
            f"The memory plan of {self.name} is wrong: {what}; this is an error of the compiler, not of your model: "
            "please report it."
        )

    # ---- bindings
    def _argument(self, position: int, param: relax.Var) -> _Memory:
        fixed = "" if position in self.donated else "an argument that is not donated"
        memory = _Memory(param.name, _static(param.ty.shape), str(param.ty.dtype), fixed=fixed, version=1)
        self.bound[param] = _Value(memory, 1)
        return memory

    def _bind(self, var: relax.Var, expr: relax.Expr) -> None:
        operator = op_name(expr)
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.GlobalVar):
            self._call(expr)
            return
        if operator == ALLOC_STORAGE:
            self.blocks[var] = prod(_static(expr.args[0]))
        elif operator == PLACE:
            self.bound[var] = _Value(self._place(var, *expr.args[:4]), 0)
        elif operator == APART:
            memory = _Memory(var.name, _static(expr.args[0]), str(expr.args[1].value))
            self.apart.append(memory)
            self.bound[var] = _Value(memory, 0)
        elif operator == SAME:
            self.bound[var] = self._value(expr.args[0])
            self.bound[var].memory.name = var.name  # which is the name that calls know it by
        else:
            self.bound[var] = self._value(expr)
            self.written = set()

    def _place(self, var: relax.Var, block: relax.Var, offset: relax.Expr, shape: relax.Expr, dtype: relax.Expr):
        memory = _Memory(var.name, _static(shape), str(dtype.value), block, int(offset.value))
        if block not in self.blocks:
            self._fail(f"{memory.place} lies in a block that was not allocated before")
        if memory.offset < 0 or memory.offset + memory.size > self.blocks[block]:
            self._fail(f"{memory.place} does not lie inside the {self.blocks[block]} bytes of its block")
        if memory.offset and not self.device.offsets:
            self._fail(f"{memory.place} starts inside a block, which {self.device.kind} devices cannot address")
        self.placed.setdefault(block, []).append(memory)
        return memory

    def _value(self, expr: relax.Expr) -> _Bound:
        """What an expression that computes nothing stands for; what the last call wrote is its result."""
        if isinstance(expr, relax.Tuple):
            return tuple(self._value(field) for field in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return self._value(expr.tuple_value)[int(expr.index)]
        if isinstance(expr, tvm.ir.GenericConst):
            return _Value(
                _Memory("a constant", _static(expr.ty.shape), str(expr.ty.dtype), fixed="a constant", version=1), 1
            )
        if expr not in self.bound:
            self._fail(f"nothing is known of what {op_name(expr) or type(expr).__name__} does to memory")
        found = self.bound[expr]
        if isinstance(found, _Value) and found.memory in self.written:
            return _Value(found.memory, found.memory.version)
        return found

    # ---- calls
    def _call(self, call: relax.Call) -> None:
        self.calls, self.written = self.calls + 1, set()
        kernel, where = self.kernels.get(call.op), f"{call.op.name_hint} (call {self.calls})"
        if kernel is None:
            self._fail(f"{where} is no kernel")
        values = list(_flat(self._value(arg) for arg in call.args))
        self._check_forms(where, kernel.forms, values)
        done = kernel.accesses
        for i in sorted(done.writes):
            self._check_write(where, values, i)
        for i in sorted(done.reads):
            self._check_read(where, values[i], own=i in done.writes)
        for i, value in enumerate(values):
            memory = value.memory
            if memory.first < 0:
                memory.first, memory.made = self.calls, where
            memory.last, memory.used = self.calls, where
            if i in done.writes:
                memory.version += 1
                self.written.add(memory)

    def _check_forms(self, where: str, forms: Sequence[_Form | None], values: Sequence[_Value]) -> None:
        """That the tensors are those that the kernel's code counts on."""
        if len(values) != len(forms):
            self._fail(f"{where} takes {len(forms)} arguments and gets {len(values)}")
        open_sizes: dict[tirx.Var, int] = {}
        for number, (form, value) in enumerate(zip(forms, values, strict=True)):
            memory = value.memory
            if form is None:
                self._fail(f"argument {number} of {where} is no tensor")
            wanted = [
                n if isinstance(n, int) else open_sizes.setdefault(n, have)
                for n, have in zip(form.shape, memory.shape, strict=False)
            ]
            if (len(form.shape), wanted, form.dtype) != (len(memory.shape), list(memory.shape), memory.dtype):
                self._fail(f"argument {number} of {where} is {form}, and it gets {memory.name}, {memory.form}")
            if memory.offset % form.alignment or BLOCK_ALIGNMENT % form.alignment:
                self._fail(
                    f"argument {number} of {where} has to start at a multiple of {form.alignment} bytes, and "
                    f"{memory.name} starts at byte {memory.offset} of its block"
                )

    def _check_write(self, where: str, values: Sequence[_Value], position: int) -> None:
        memory = values[position].memory
        if memory.fixed:
            self._fail(f"{where} writes {memory.name}, {memory.fixed}")
        for number, other in enumerate(values):
            if number != position and other.memory is memory:
                self._fail(f"{where} writes its argument {position}, {memory.name}, which is its argument {number} too")

    def _check_read(self, where: str, value: _Value, own: bool) -> None:
        """own: the kernel writes it too, and may read nothing but what it wrote itself."""
        memory = value.memory
        if not memory.version and not own:
            self._fail(f"{where} reads {memory.name}, which nothing has written")
        if not value.current:
            self._fail(f"{where} reads {memory.name} as it was before {memory.used} wrote it in place")

    # ---- the whole
    def _check_results(self, result: relax.Expr) -> None:
        returned = set()
        for value in _flat([self._value(result)]):
            memory = value.memory
            if memory.block is not None:
                self._fail(f"{memory.place} is returned, and the next call overwrites it")
            if not memory.version:
                self._fail(f"{memory.name} is returned, and nothing has written it")
            if not value.current:
                self._fail(f"{memory.name} is returned as it was before {memory.used} wrote it in place")
            returned.add(memory)
        for memory in self.apart:
            if memory not in returned:
                self._fail(f"{memory.name} ({memory.size} bytes) has no place in a block though it is not returned")

    def _check_overlaps(self, tensors: Sequence[_Memory]) -> None:
        """That tensors of one block that live at the same time share no byte."""
        tensors = sorted((m for m in tensors if m.first >= 0 and m.size), key=lambda m: m.first)
        first = np.array([m.first for m in tensors], np.int64)
        begin = np.array([m.offset for m in tensors], np.int64)
        end = begin + np.array([m.size for m in tensors], np.int64)
        for i, memory in enumerate(tensors):
            # Those that begin to live while this one does; it was compared with the earlier ones before.
            meet = slice(i + 1, int(np.searchsorted(first, memory.last, side="right")))
            shared = np.flatnonzero((begin[meet] < end[i]) & (end[meet] > begin[i]))
            if shared.size:
                other = tensors[i + 1 + int(shared[0])]
                self._fail(
                    f"{memory.place}, which lives {memory.life}, and {other.place}, which lives {other.life}, share "
                    f"{min(end[i], other.offset + other.size) - max(begin[i], other.offset)} bytes"
                )


def _static(shape: relax.Expr) -> tuple[int, ...]:
    return tuple(int(n) for n in (shape.values if isinstance(shape, relax.ShapeExpr) else shape))


def _flat(values: Iterator[_Bound] | Sequence[_Bound]) -> Iterator[_Value]:
    """The values of tuples within tuples."""
    return chain.from_iterable([v] if isinstance(v, _Value) else _flat(v) for v in values)
