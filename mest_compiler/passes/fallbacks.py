"""What of a network runs outside batch tiles, or by TVM's kernels in place of ours: by operator and torch module, with
its share of the step's time.

Time is estimated: what a kernel's tensors let it move and compute, on the roofline of the device. TVM's kernels reach
less of that than ours do, so their true share is rather larger.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import tvm
from tvm import relax, tirx

from mest_compiler.devices import Device
from mest_compiler.frontend.origin import origin_of
from mest_compiler.optimizers import Optimizer
from mest_compiler.signature import STEP, Role

from .dataflow import Dataflow, Node
from .plan_memory import tensor_bytes
from .program import op_name, shape_of
from .step_program import StepProgram

CONVERSIONS = ("tile_in", "tile_out", "features_in", "features_out")
"""Kernels that lay activations out in batch tiles, and back."""
PRODUCTS = ("relax.matmul", "mest.linear", "mest.linear_backward_data", "mest.linear_backward_weight")
"""Operators that compute a product of matrices; all others left in Relax are bound by memory."""
SMALL = 4096
"""Numbers: what only touches tensors of so many is left out, such as a classifier's bias, or the loss of a batch."""
WORTH_A_WARNING = 0.05
"""Share of the step's time from which on a network is rather another one for this compiler."""
INPUT = "(the input)"
"""Origin of what lays out an input."""


@dataclass(frozen=True)
class Fallback:
    """All calls of one operator in one module, forward and backward.

    operator: of Relax, or a conversion. module: its torch name, "" the model's own forward; OUTSIDE, INPUT and OUTPUT
    are no modules. calls, moved bytes and seconds: of a whole batch.
    """

    operator: str
    module: str
    calls: int
    moved: int
    seconds: float


def fallback_report(
    traced: tvm.IRModule, tiled: StepProgram, flow: Dataflow, rule: Optimizer, device: Device, parts: int
) -> dict[str, Any]:
    """As a manifest has it: {"share": of all, "operators": [{"operator", "module", "calls", "bytes", "share"}]}, the
    largest first; shares are fractions of a whole step's estimated time, without what a memory limit repeats.

    traced: the frontend's module, whose kernels are TVM's. tiled: the step over batch tiles. flow: its kernels and
    tensors. parts: micro-batches.
    """
    # Backward kernels of a layer compute as much as its forward one.
    flops = {name: layer.forward_flops for layer in tiled.layers.values() for name in layer.functions.values()}
    seconds = {id(node): device.roofline.seconds(_flops(node, flops), _moved(flow, node)) for node in flow.nodes}
    weights = sum(arg.bytes for arg in tiled.signature[STEP].of(Role.PARAMETER))
    passes = 1 + 2 * (1 + len(rule.slots))  # the gradient is read, the weight and its slots are read and written
    total = parts * sum(seconds.values()) + device.roofline.seconds(0, passes * weights)
    generic = {gvar.name_hint for gvar, f in traced.functions.items() if isinstance(f, tirx.PrimFunc)}
    found: dict[tuple[str, str], Fallback] = {}
    inputs = {flow.program.params[at] for at in tiled.signature[STEP].places(Role.INPUT).values()}
    for node, operator, module in _outside(flow, generic, inputs):
        old = found.get((operator, module), Fallback(operator, module, 0, 0, 0.0))
        found[operator, module] = Fallback(
            operator, module, old.calls + parts, old.moved + parts * _moved(flow, node),
            old.seconds + parts * seconds[id(node)],
        )  # fmt: skip
    rows = sorted(found.values(), key=lambda one: (-one.seconds, one.operator, one.module))
    return {
        "share": sum(one.seconds for one in rows) / total,
        "operators": [
            {"operator": one.operator, "module": one.module, "calls": one.calls, "bytes": one.moved,
             "share": one.seconds / total}
            for one in rows
        ],
    }  # fmt: skip


def _outside(flow: Dataflow, generic: set[str], inputs: set[relax.Var]) -> Iterator[tuple[Node, str, str]]:
    """Bindings that are no kernel of ours on batch tiles, each with its operator's name and its origin."""
    defined = flow.program.definitions()
    for node in flow.nodes:
        if max(prod(map(int, flow.types[t].shape)) for t in (*node.reads, *node.writes)) <= SMALL:
            continue
        kernel = _kernel(node)
        if not kernel:
            yield node, op_name(node.expr).rpartition(".")[2], origin_of(node.expr)
            continue
        kind = re.sub(r"_?\d*$", "", kernel)
        if kernel in generic:
            yield node, kind, origin_of(node.expr)
        elif kind in CONVERSIONS:
            yield node, kind, _cause(node.expr, kind, defined, inputs)


def _cause(call: relax.Call, kind: str, defined: dict[relax.Var, relax.Expr], inputs: set[relax.Var]) -> str:
    """Why something is laid out anew: for whom it is, but what enters batch tiles for whom it comes from."""
    source = call.args[1].fields[0]
    if source in inputs:
        return INPUT
    made = defined.get(source)
    while isinstance(made, relax.TupleGetItem | relax.Var):
        made = defined.get(made.tuple_value if isinstance(made, relax.TupleGetItem) else made)
    return origin_of(call if kind != "tile_in" or made is None else made)


def _moved(flow: Dataflow, node: Node) -> int:
    """Bytes that a binding reads and writes, each once."""
    return sum(tensor_bytes(flow.types[t]) for t in (*node.reads, *node.writes))


def _kernel(node: Node) -> str:
    """Name of the kernel that a binding calls; "" of one that is still an operator."""
    return str(node.expr.args[0].name_hint) if op_name(node.expr).startswith("relax.call_tir") else ""


def _flops(node: Node, of_layers: Mapping[str, float]) -> float:
    """Of a layer's kernel or of a product: the root of the sizes of its two matrices and its result is the number of
    its multiplications."""
    if op_name(node.expr) not in PRODUCTS:
        return of_layers.get(_kernel(node), 0.0)
    return 2 * sqrt(prod(prod(shape_of(tensor)) for tensor in (*node.expr.args, node.var)))
