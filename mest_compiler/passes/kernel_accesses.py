"""Which of its arguments a kernel reads and which it writes: read off its body, whatever its callers say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import tvm_ffi
from tvm import ir, tirx
from tvm.target import codegen

ADDRESS_OF, BUFFER_DATA, EXTERN, LLVM = (
    "tirx.address_of",
    "tirx.buffer_data",
    "tirx.call_extern",
    "tirx.call_llvm_intrin",
)
_CAST, _CONST = "(", "(const "
"""How the name of an extern call begins that is a cast in OpenCL C, and one to a pointer that only reads."""


@dataclass(frozen=True)
class Accesses:
    """Positions of the arguments that a kernel reads, and of those that it writes."""

    reads: frozenset[int]
    writes: frozenset[int]


def accesses(kernel: tirx.PrimFunc) -> Accesses:
    """What a kernel does to its arguments, also through views of them and through pointers into them.

    A pointer handed to a function that is not known counts as read and written. An address that is only prefetched
    is neither.
    """
    body = _Body()
    tvm_ffi.structural_walk(
        kernel.body,
        [
            (ir.TensorLoad, body.load),
            (tirx.BufferStore, body.store),
            (ir.Call, body.call),
            (tirx.Bind, body.bind),
            (tirx.DeclBuffer, body.declare),
        ],
    )
    positions = {param: i for i, param in enumerate(kernel.params)}
    reads = (body.argument(source, positions) for source, times in body.loads.items() if times > 0)
    writes = (body.argument(target, positions) for target in body.stores)
    return Accesses(frozenset(reads) - {None}, frozenset(writes) - {None})


class _Body:
    """All accesses of a kernel's body. views: a pointer or a view of a buffer -> what it points into."""

    def __init__(self) -> None:
        self.loads: Counter[ir.Var] = Counter()
        self.stores: set[ir.Var] = set()
        self.views: dict[ir.Var, ir.Var] = {}
        self._prefetch = codegen.llvm_lookup_intrinsic_id("llvm.prefetch")

    def load(self, node: ir.TensorLoad) -> None:
        self.loads[node.source] += 1

    def store(self, node: tirx.BufferStore) -> None:
        self.stores.add(node.buffer)

    def bind(self, node: tirx.Bind) -> None:
        self._view(node.var, node.value)

    def declare(self, node: tirx.DeclBuffer) -> None:
        self._view(node.buffer, node.data)

    def _view(self, name: ir.Var, value: ir.Expr) -> None:
        source = value if isinstance(value, ir.Var) else _pointed(value)
        if source is not None:
            self.views[name] = source

    def call(self, node: ir.Call) -> None:
        name = str(getattr(node.op, "name", ""))
        if name == ADDRESS_OF:
            self.loads[node.args[0].source] -= 1  # its argument looks like a load, and is none
        elif name != BUFFER_DATA:
            for pointer in self._pointers(node):
                self._handed(name, node, pointer)

    def _pointers(self, call: ir.Call) -> Iterator[ir.Var]:
        for arg in call.args:
            pointed = self.views.get(arg) if isinstance(arg, ir.Var) else _pointed(arg)
            if pointed is not None:
                yield pointed

    def _handed(self, name: str, call: ir.Call, pointer: ir.Var) -> None:
        """A pointer is handed to a function."""
        if name == LLVM and int(call.args[0]) == self._prefetch:
            return
        cast = str(call.args[0].value) if name == EXTERN else ""
        if cast.startswith(_CONST) or not cast.startswith(_CAST):
            self.loads[pointer] += 1
        if not cast.startswith(_CONST):
            self.stores.add(pointer)

    def argument(self, name: ir.Var, positions: dict[ir.Var, int]) -> int | None:
        """Position of the argument that a name stands for; None for memory of the kernel's own."""
        while name in self.views:
            name = self.views[name]
        return positions.get(name)


def _pointed(expr: ir.Expr) -> ir.Var | None:
    """The buffer that an address points into; None for anything else."""
    name = str(getattr(expr.op, "name", "")) if isinstance(expr, ir.Call) else ""
    if name == ADDRESS_OF:
        return expr.args[0].source
    return expr.args[0] if name == BUFFER_DATA else None
