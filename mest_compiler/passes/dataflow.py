"""A training step as kernels that read and write tensors, and what happens to memory when some are computed again.

Nothing is built here: a schedule is a list of steps over numbered tensors, so that hundreds can be weighed in a second
before one is written down as a function (see `recompute`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from tvm import relax

from .plan_memory import Block, alive, tensor_bytes
from .program import Program, op_name, variables
from .repeat import Repeat


class StepKind(Enum):
    """What a step of a schedule does: a kernel of the traced step in its own place, one of them again, or a conversion
    into the type that activations wait in or back from it."""

    FIRST = "first"
    AGAIN = "recompute"
    PACK = "pack"
    UNPACK = "unpack"


@dataclass(frozen=True)
class Node:
    """A binding that computes something. reads, writes: tensors; recompute: the tensors read when it is repeated, or
    None if it cannot be."""

    var: relax.Var
    expr: relax.Expr
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    recompute: tuple[int, ...] | None
    flops: float


@dataclass(frozen=True)
class Step:
    """What a schedule does at one place.

    node: what is computed, None for a conversion. reads, writes: tensors; those of a conversion, or of a node computed
    again, that are written have numbers of their own. renamed: for tensors that the node reads in the traced step,
    what stands for them here, where that is another one.
    """

    kind: StepKind
    node: Node | None
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    renamed: Mapping[int, int] = field(default_factory=dict)


class Dataflow:
    """The kernels of a step in their order.

    Tensors are numbered; parameters of the function have no size, since they are allocated elsewhere. `turn` is the
    first node that comes after the loss.
    """

    def __init__(
        self, program: Program, repeats: Mapping[str, Repeat], flops: Callable[[str], float],
    ) -> None:  # fmt: skip
        self.program, self.repeats = program, repeats
        self.tensors: dict[relax.Var, tuple[int, ...]] = {}
        self.types: list[relax.TensorType] = []
        self.sizes: list[int] = []
        self.nodes: list[Node] = []
        self.maker: dict[int, Node] = {}
        self._repeatable: dict[int, bool] = {}
        for param in program.params:
            self.tensors[param] = (self._new(param.ty, 0),)
        for var, expr in program.bindings:
            self._add(var, expr, flops)
        self.results = {t for out in program.outputs for t in self._read(out)}
        loss = self._read(program.outputs[0])[0]
        self.turn = next((i + 1 for i, node in enumerate(self.nodes) if loss in node.writes), len(self.nodes))

    def _new(self, ty: relax.TensorType, size: int) -> int:
        self.types.append(ty)
        self.sizes.append(size)
        return len(self.sizes) - 1

    def variables(self, expr: relax.Expr) -> list[relax.Var]:
        """Those that an expression reads directly and that hold tensors."""
        return [var for var in variables(expr) if var in self.tensors]

    def _read(self, expr: relax.Expr) -> tuple[int, ...]:
        return tuple(t for var in dict.fromkeys(self.variables(expr)) for t in self.tensors[var])

    def _add(self, var: relax.Var, expr: relax.Expr, flops: Callable[[str], float]) -> None:
        if isinstance(expr, relax.Var | relax.Tuple):
            self.tensors[var] = self._read(expr)
            return
        if isinstance(expr, relax.TupleGetItem):
            self.tensors[var] = (self.tensors[expr.tuple_value][int(expr.index)],)
            return
        fields = list(var.ty.fields) if isinstance(var.ty, relax.TupleType) else [var.ty]
        in_place = list(expr.attrs.inplace_indices) if op_name(expr) == "relax.call_tir_inplace" else []
        writes = tuple(
            self._new(ty, 0 if in_place and int(in_place[i]) >= 0 else tensor_bytes(ty)) for i, ty in enumerate(fields)
        )
        self.tensors[var] = writes
        reads, recompute = self._read(expr), None
        kernel = expr.args[0].name_hint if op_name(expr).startswith("relax.call_tir") else ""
        if kernel in self.repeats:
            given = [self._read(a)[0] for a in expr.args[1].fields]
            recompute = tuple({"in": given, "out": writes}[kind][i] for kind, i in self.repeats[kernel].sources)
        elif op_name(expr) == "relax.call_tir":
            recompute = reads
        node = Node(var, expr, reads, writes, recompute, flops(kernel) if kernel else 0.0)
        self.nodes.append(node)
        self.maker.update(dict.fromkeys(writes, node))

    @cached_property
    def forward(self) -> frozenset[int]:
        """Tensors that are computed before the loss is known."""
        return frozenset(t for node in self.nodes[: self.turn] for t in node.writes)

    @cached_property
    def waiting(self) -> tuple[int, ...]:
        """Those of them that backward reads."""
        read = {t for node in self.nodes[self.turn :] for t in node.reads}
        return tuple(sorted(read & self.forward))

    def repeatable(self, tensor: int) -> bool:
        """Whether a tensor can be computed again from what waits or is given."""
        if tensor not in self._repeatable:
            node = self.maker[tensor]
            # Of an in-place kernel only the first output can.
            can = node.recompute is not None and (not self._in_place(node) or tensor == node.writes[0])
            self._repeatable[tensor] = can and all(
                t not in self.forward or t in self.waiting or self.repeatable(t) for t in node.recompute
            )
        return self._repeatable[tensor]

    def repeated(self, node: Node) -> tuple[int, ...]:
        """The tensors that a repetition of a node writes."""
        return node.writes[:1] if self._in_place(node) else node.writes

    def _in_place(self, node: Node) -> bool:
        return node.expr.args[0].name_hint in self.repeats

    def schedule(self, dropped: Iterable[int], packed: Iterable[int] = ()) -> Schedule:
        """The step when `dropped` of the waiting tensors do not wait but are computed again where backward reads them,
        and `packed` ones wait in their storage type."""
        return Schedule(self, frozenset(dropped), frozenset(packed))


class Schedule:
    """Steps, and the tensors that they add to those of the dataflow (numbers from `len(flow.sizes)` on)."""

    def __init__(self, flow: Dataflow, dropped: frozenset[int], packed: frozenset[int]) -> None:
        self.flow, self.dropped, self.packed = flow, dropped, packed - dropped
        self.kept = frozenset(flow.waiting) - dropped
        self.added: list[tuple[int, int]] = []  # (size, the tensor that it stands for)
        self.steps: list[Step] = []
        self.extra_bytes = self.extra_flops = 0.0
        self._live: dict[int, int] = {}  # waiting tensor -> what stands for it, since backward read it first
        self._storage: dict[int, int] = {}
        for i, node in enumerate(flow.nodes):
            if i < flow.turn:
                self.steps.append(Step(StepKind.FIRST, node, node.reads, node.writes))
                for tensor in set(node.writes) & self.packed:
                    self._storage[tensor] = self._add(flow.sizes[tensor] // 2, tensor)
                    self._convert(StepKind.PACK, tensor, self._storage[tensor])
                continue
            renamed = {t: self._asked(t) for t in node.reads}
            renamed = {t: new for t, new in renamed.items() if t != new}
            reads = tuple(renamed.get(t, t) for t in node.reads)
            self.steps.append(Step(StepKind.FIRST, node, reads, node.writes, renamed))

    @property
    def changes_anything(self) -> bool:
        """Whether it is another step than the traced one."""
        return bool(self.dropped or self.packed)

    def dropped_kernels(self) -> list[tuple[str, int]]:
        """(name of the kernel's kind, bytes) of each tensor that does not wait."""
        makers = [(self.flow.maker[t], self.flow.sizes[t]) for t in sorted(self.dropped)]
        return [(node.expr.args[0].name_hint.rstrip("0123456789"), size) for node, size in makers]

    def size(self, tensor: int) -> int:
        """Bytes of a tensor of the flow or of this schedule."""
        known = self.flow.sizes
        return known[tensor] if tensor < len(known) else self.added[tensor - len(known)][0]

    def _add(self, size: int, of: int) -> int:
        self.added.append((size, of))
        return len(self.flow.sizes) + len(self.added) - 1

    def _convert(self, kind: StepKind, source: int, target: int) -> None:
        self.steps.append(Step(kind, None, (source,), (target,)))
        self.extra_bytes += self.size(source) + self.size(target)

    def _asked(self, tensor: int) -> int:
        """What backward reads for a tensor; kept for its other readers there."""
        if tensor in self.dropped or tensor in self.packed:
            if tensor not in self._live:
                self._live[tensor] = self._again(tensor, {})
            return self._live[tensor]
        return tensor

    def _again(self, tensor: int, found: dict[int, int]) -> int:
        """What stands for a forward tensor here; what is only passed through is computed anew for every reader, so that
        it does not wait."""
        flow = self.flow
        if tensor not in flow.forward or (tensor in self.kept and tensor not in self.packed):
            return tensor
        if tensor in self._live or tensor in found:
            return self._live.get(tensor, found.get(tensor))
        if tensor in self.packed:
            found[tensor] = self._add(flow.sizes[tensor], tensor)
            self._convert(StepKind.UNPACK, self._storage[tensor], found[tensor])
            return found[tensor]
        node = flow.maker[tensor]
        renamed = {t: self._again(t, found) for t in node.recompute}
        outputs = flow.repeated(node)
        writes = tuple(self._add(flow.sizes[t], t) for t in outputs)
        found.update(zip(outputs, writes, strict=True))
        reads = tuple(renamed[t] for t in node.recompute)
        self.steps.append(Step(StepKind.AGAIN, node, reads, writes, renamed))
        self.extra_bytes += sum(map(self.size, (*reads, *writes)))
        self.extra_flops += node.flops
        return found[tensor]

    def stands_for(self, tensor: int) -> int:
        """The tensor of the flow that a tensor of this schedule has the values of."""
        known = len(self.flow.sizes)
        return tensor if tensor < known else self.added[tensor - known][1]

    @cached_property
    def _lives(self) -> dict[int, tuple[int, int]]:
        """First and last step of each tensor; results live to the end."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for at, step in enumerate(self.steps):
            for tensor in (*step.writes, *step.reads):
                first.setdefault(tensor, at)
                last[tensor] = at
        ends = {t: len(self.steps) for t in self.flow.results}
        return {t: (first[t], ends.get(t, last[t])) for t in first}

    @cached_property
    def blocks(self) -> list[Block]:
        """The memory that each tensor takes."""
        return [Block(self.size(t), *life) for t, life in self._lives.items() if self.size(t)]

    @cached_property
    def _alive(self) -> list[int]:
        return alive(self.blocks)

    @cached_property
    def peak(self) -> int:
        """Most bytes that live at the same time."""
        return max(self._alive, default=0)

    @cached_property
    def alive_at_peak(self) -> frozenset[int]:
        """Waiting tensors of the flow that live then, as they are or in their storage type."""
        at, lives = self._alive.index(self.peak), self._lives
        held = {t: lives.get(self._storage.get(t, t)) for t in self.flow.waiting}
        return frozenset(t for t, life in held.items() if life is not None and life[0] <= at <= life[1])
