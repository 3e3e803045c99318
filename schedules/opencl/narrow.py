"""Kernels whose activations lie in memory as float16 while they compute in float32.

vload_half4 and vstore_half4 are core OpenCL C: a device needs no arithmetic in float16 for them. A kernel is written
for float32, and `narrowed` gives it other accesses; so every generator serves both.
"""

from __future__ import annotations

from collections.abc import Collection

import tvm_ffi
from tvm import ir, sym, tirx
from tvm.tirx.buffer import BufferType

from ..emit import Buffer, Expr
from .emit import QUAD

STORED = "uint16"
"""The dtype of a buffer that holds float16: of one that says so, TVM writes `#error` for devices without arithmetic in
it."""
_COMPUTED = "float32"


def _views(kernel: tirx.PrimFunc) -> dict[Buffer, int]:
    """Every name of an argument's memory -> the argument's position."""
    found = {p: i for i, p in enumerate(kernel.params) if isinstance(p.ty, BufferType)}

    def declared(view: tirx.DeclBuffer) -> None:
        source = view.data.args[0] if isinstance(view.data, ir.Call) and view.data.args else None
        if source in found:
            found[view.buffer] = found[source]

    tvm_ffi.structural_walk(kernel.body, (tirx.DeclBuffer, declared))
    return found


def _quad(index: Expr) -> Expr | None:
    """Number of the quad that an index reaches; None if it is no quad."""
    if not (isinstance(index, tirx.Ramp) and int(index.lanes) == QUAD and int(index.stride) == 1):
        return None
    analyzer = sym.Analyzer()
    if not analyzer.can_prove_equal(tirx.floormod(index.base, QUAD), 0):
        return None
    return analyzer.simplify(tirx.floordiv(index.base, QUAD))


def _accesses(kernel: tirx.PrimFunc) -> list[tuple[Buffer, list[Expr]]]:
    """(buffer, indices) of everything that a kernel reads or writes."""
    found: list[tuple[Buffer, list[Expr]]] = []
    load = (ir.TensorLoad, lambda node: found.append((node.source, list(node.indices))))
    store = (tirx.BufferStore, lambda node: found.append((node.buffer, list(node.indices))))
    tvm_ffi.structural_walk(kernel.body, (load, store))
    return found


def narrowable(kernel: tirx.PrimFunc) -> frozenset[int]:
    """Positions of the arguments that `narrowed` can change: float32 that is read and written by whole quads."""
    views = _views(kernel)
    asked = {i for i, p in enumerate(kernel.params) if p in views and str(p.ty.dtype) == _COMPUTED}
    others = {
        views[buffer]
        for buffer, indices in _accesses(kernel)
        if views.get(buffer) in asked and (len(indices) != 1 or _quad(indices[0]) is None)
    }
    return frozenset(asked - others)


def _pointer(buffer: Buffer, access: str) -> Expr:
    """The memory of a buffer as halfs. TVM would cast a handle once more, and lose the address space, but no number."""
    return tirx.call_extern("uint64", f"({access}__global half*)", buffer.data)


def narrowed(kernel: tirx.PrimFunc, positions: Collection[int]) -> tirx.PrimFunc:
    """The kernel with these of its arguments (see `narrowable`) as float16, rounded to nearest where they are written.

    A number beyond float16's 65504 becomes an infinity; one that is none stays so.
    """
    new = {
        buffer: tirx.decl_buffer(list(buffer.ty.shape), STORED, buffer.name)
        for buffer, position in _views(kernel).items()
        if position in positions
    }
    stored = set(new.values())

    def load(node: ir.TensorLoad) -> Expr:
        if node.source not in stored:
            return node
        return tirx.call_extern(
            f"{_COMPUTED}x{QUAD}", f"vload_half{QUAD}", _quad(node.indices[0]), _pointer(node.source, "const ")
        )

    def store(node: tirx.BufferStore) -> tirx.Stmt:
        if node.buffer not in stored:
            return node
        place = _quad(node.indices[0]), _pointer(node.buffer, "")
        return tirx.Evaluate(tirx.call_extern("void", f"vstore_half{QUAD}_rte", node.value, *place))

    changes = ((ir.Var, lambda var: new.get(var, var)), (ir.TensorLoad, load), (tirx.BufferStore, store))
    body = tvm_ffi.structural_map(kernel.body, changes)
    return tirx.PrimFunc([new.get(p, p) for p in kernel.params], body, kernel.ret_type, attrs=kernel.attrs)
