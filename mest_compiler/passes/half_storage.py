"""A compiler pass that keeps activations in memory as float16, while kernels go on computing in float32.

Only what forward computes from the images is kept so. Gradients of activations stay float32: they would underflow, and
a factor on the loss against that is one more thing to go wrong for less than half of the bytes. So do the parameters
and their gradients, sums and statistics, the loss, the logits, and the features of linear layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import tvm
from tvm import relax

from mest_compiler.devices import Device
from mest_compiler.schedules import generators
from mest_compiler.signature import FunctionSignature, Role, StepSignature

from .program import Env, Program, carry_body, op_name, rebuild, relax_functions, substitute, variables
from .step_program import StepProgram

FLOAT16 = "float16"
"""Value of the option `stored` that asks for this."""
_COMPUTED = "float32"


def stores_half(stored: str | None, dtype: str) -> bool:
    """Whether activations of a step of this dtype are kept so under this value of the option."""
    return stored == FLOAT16 and dtype == _COMPUTED


_CALLS = ("relax.call_tir", "relax.call_tir_inplace")

Tensor = tuple[relax.Var, int]
"""A parameter or a binding of a function, and which of the tensors that it holds."""
Narrowable = Mapping[tvm.ir.GlobalVar, frozenset[int]]
"""Kernel -> the positions of its arguments that can be float16."""


class HalfStorage:
    """Retypes activations and gives the kernels that read or write them copies that do so; what is done already stays.

    An activation is what depends on an input and on no target, in batch tiles: so are those that a schedule
    computes again, and a memory limit changes no number. It must be read and written by our kernels alone.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.narrow = generators(device).narrow

    def __call__(self, program: StepProgram) -> StepProgram:
        """The program with what is stored as float16 typed so."""
        return replace(program, module=self._module(program.module, program.signature))

    def _module(self, mod: tvm.IRModule, signature: StepSignature) -> tvm.IRModule:
        kernels = {gvar: f for gvar, f in mod.functions.items() if not isinstance(f, relax.Function)}
        can = {gvar: self.narrow.narrowable(f) for gvar, f in kernels.items()}
        functions = [(name, Program.of(f)) for name, f in relax_functions(mod)]
        lanes = self.device.lanes(_COMPUTED)
        plans = {
            name: _Plan(program, _activations(signature[name], program), can, lanes, self.narrow.STORED)
            for name, program in functions
        }
        wanted: dict[tvm.ir.GlobalVar, set[frozenset[int]]] = defaultdict(set)
        for plan in plans.values():
            for call in plan.calls.values():
                wanted[call.kernel].add(plan.positions(call))
        builder = relax.BlockBuilder()
        made: dict[tuple[tvm.ir.GlobalVar, frozenset[int]], relax.GlobalVar] = {}
        for gvar, function in kernels.items():
            # The first takes the name, which layers know their kernels by.
            for positions in sorted(wanted[gvar], key=lambda found: (-len(found), sorted(found))):
                copy = self.narrow.narrowed(function, positions) if positions else function
                made[gvar, positions] = builder.add_func(copy, gvar.name_hint)
        for name, program in functions:
            plan = plans[name]

            def change(var: relax.Var, expr: relax.Expr, env: Env, plan: _Plan = plan) -> relax.Expr:
                call = plan.calls.get(var)
                if call is None:
                    return substitute(expr, env)
                new = substitute(expr, {**env, call.kernel: made[call.kernel, plan.positions(call)]})
                return relax.Call(
                    new.op, new.args, new.attrs, [self._type(plan, var, ty) for ty in new.ty_args], new.span
                )

            rebuild(
                builder, name, program.params, lambda b, p=program, c=change: carry_body(b, p, {}, c), program.single
            )
        return builder.finalize()

    def _type(self, plan: _Plan, var: relax.Var, ty: tvm.ir.Type) -> tvm.ir.Type:
        def one(index: int, ty: relax.TensorType) -> relax.TensorType:
            return relax.TensorType(ty.shape, self.narrow.STORED) if (var, index) in plan.narrow else ty

        if isinstance(ty, relax.TupleType):
            return relax.TupleType([one(i, field) for i, field in enumerate(ty.fields)])
        return one(0, ty)


def _activations(signature: FunctionSignature, program: Program) -> set[relax.Var]:
    """Variables that depend on an input and on no target."""
    inputs, targets = (
        [program.params[at] for at in signature.places(role).values()] for role in (Role.INPUT, Role.TARGET)
    )
    return _reached(program, inputs) - _reached(program, targets)


def _reached(program: Program, sources: Iterable[relax.Var]) -> set[relax.Var]:
    """Variables that depend on these, and these."""
    found = set(sources)
    for var, expr in program.bindings:
        if not found.isdisjoint(variables(expr)):
            found.add(var)
    return found


@dataclass(frozen=True)
class _Call:
    """A kernel's call. tensors: by position of the kernel's arguments, the outputs last; None: no tensor of this
    function. types: theirs. outputs: positions of those that the call allocates; changed: of those that it writes in
    place."""

    kernel: tvm.ir.GlobalVar
    tensors: tuple[Tensor | None, ...]
    types: tuple[tvm.ir.Type, ...]
    outputs: frozenset[int]
    changed: frozenset[int]

    @property
    def relays(self) -> bool:
        """Whether it gives to an operator without a kernel for batch tiles, or lays features of linear layers, [N, C],
        out anew: those are few, and logits may be among them."""
        if len(self.types) != 2:
            return False
        first, second = ([int(n) for n in ty.shape] for ty in self.types)
        flat, tiled = (first, second) if len(first) == 2 else (second, first)
        if len(flat) == 2 and len(tiled) == 3:
            lanes = tiled[2]
            return tiled[:2] == [1, flat[1] * -(-flat[0] // lanes)]
        return len(second) == 4


class _Plan:
    """What of one function is stored as float16."""

    def __init__(self, program: Program, activations: set[relax.Var], can: Narrowable, lanes: int, stored: str) -> None:
        self.can = can
        self.calls: dict[relax.Var, _Call] = {}
        self._known: dict[relax.Var, Tensor] = {}
        for var, expr in program.bindings:
            self._bind(var, expr)
        self.narrow: set[Tensor] = set()
        for var, call in self.calls.items():
            for i in call.outputs:
                ty, tensor = call.types[i], call.tensors[i]
                tiled = len(ty.shape) == 3 and int(ty.shape[2]) == lanes
                new = str(ty.dtype) == _COMPUTED and var in activations and i in can[call.kernel]
                if tiled and (new or str(ty.dtype) == stored):
                    self.narrow.add(tensor)
        self.narrow -= set(self._refused(program))

    def _bind(self, var: relax.Var, expr: relax.Expr) -> None:
        if isinstance(expr, relax.Var):
            self._known[var] = self._tensor(expr)
        elif isinstance(expr, relax.TupleGetItem) and isinstance(expr.tuple_value, relax.Var):
            self._known[var] = (expr.tuple_value, int(expr.index))
        elif op_name(expr) in _CALLS:
            self.calls[var] = self._call(var, expr)

    def _tensor(self, expr: relax.Expr) -> Tensor | None:
        return self._known.get(expr, (expr, 0)) if isinstance(expr, relax.Var) else None

    def _call(self, var: relax.Var, expr: relax.Call) -> _Call:
        fields = list(expr.args[1].fields)
        written = list(var.ty.fields) if isinstance(var.ty, relax.TupleType) else [var.ty]
        in_place = list(expr.attrs.inplace_indices) if op_name(expr) == _CALLS[1] else [-1] * len(written)
        own = [i for i, place in enumerate(in_place) if int(place) < 0]
        tensors = [self._tensor(field) for field in fields] + [(var, i) for i in own]
        types = [field.ty for field in fields] + [written[i] for i in own]
        outputs = frozenset(range(len(fields), len(types)))
        return _Call(expr.args[0], tuple(tensors), tuple(types), outputs, frozenset(map(int, in_place)) - {-1})

    def _refused(self, program: Program) -> Iterator[Tensor | None]:
        """Tensors that something reads or writes that takes float32 alone."""
        for var, expr in program.bindings:
            call = self.calls.get(var)
            if call is None:
                # A tuple that is returned stands in a binding too.
                if not isinstance(expr, relax.Var | relax.TupleGetItem):
                    yield from map(self._tensor, variables(expr))
                continue
            for i, (tensor, ty) in enumerate(zip(call.tensors, call.types, strict=True)):
                whole = call.relays or i in call.changed or i not in self.can[call.kernel]
                if whole and str(ty.dtype) == _COMPUTED:
                    yield tensor
        yield from map(self._tensor, program.outputs)

    def positions(self, call: _Call) -> frozenset[int]:
        """Positions of a kernel's arguments that change for this call."""
        return frozenset(i for i, t in enumerate(call.tensors) if t in self.narrow and i in self.can[call.kernel])
