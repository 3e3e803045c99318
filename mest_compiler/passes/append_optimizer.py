"""A compiler pass that appends the optimiser to a training step: in place, on dense and on compact weights."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax

from mest_compiler.devices import Device
from mest_compiler.optimizers import Optimizer
from mest_compiler.schedules import generators
from mest_compiler.schedules.in_place import Numbers
from mest_compiler.schedules.partial import Partial
from mest_compiler.signature import ENTRIES, HYPER, STEP, WEIGHT, FunctionSignature, Role, StepSignature, part_of

from .program import (
    Env,
    KernelTable,
    Program,
    carry_body,
    dtype_of,
    shape_of,
)
from .step_program import Named, StepProgram, named, with_step, write

WEIGHT_SUM = (Role.ACCUMULATOR, WEIGHT)
"""The argument that holds the sum of the weights of a batch's parts."""
RESULTS = (Role.LOSS, Role.WEIGHT, Role.OUTPUT)
"""Roles of what a step hands out of its own."""


class AppendOptimizer:
    """step(state, x, y[, seed], index arrays) -> (loss, output, gradients, buffers) becomes
    step(state, x, y[, seed], index arrays, slots, hypers) ->
    (loss, output, gradients of the sparse parameters, updated tensors, the other arguments).

    Mutation needs those gradients. The updated tensors alias the inputs: Relax takes in-place calls for pure and would
    remove those whose results nobody uses. With the others, every argument is a result too: what a step computes on
    over RPC are copies of what it was given, and so the other side gets hold of them.
    """

    def __init__(self, device: Device, rule: Optimizer) -> None:
        self.device, self.rule = device, rule

    def __call__(self, program: StepProgram) -> StepProgram:
        """The program with its step updating its own state."""
        return with_step(program, self._step)

    def _step(
        self, builder: relax.BlockBuilder, old: Program, signature: FunctionSignature, kernels: Env
    ) -> StepSignature:
        taken = named(signature.arguments, old.params)
        taken |= optimizer_state(taken, self.rule)

        def body(builder: relax.BlockBuilder) -> Named:
            found = named(signature.results, carry_body(builder, old, dict(kernels)))
            made = KernelTable(builder)
            gradients = {name: value for (role, name), value in found.items() if role is Role.GRADIENT}
            updated = update_weights(builder, made, self.device, self.rule, taken, gradients)
            updated |= assign_buffers(builder, made, self.device, taken, found)
            handed_out = {key: value for key, value in found.items() if key[0] in RESULTS}
            handed_out |= {(Role.GRADIENT, name): gradients[name] for name in entries_of(taken)}
            return handed_out | updated | {key: var for key, var in taken.items() if key not in updated}

        return {STEP: write(builder, STEP, taken, body)}


def entries_of(taken: Named) -> dict[str, relax.Var]:
    """Of a function's arguments those that hold how many entries sparse parameters have, by parameter."""
    ending = part_of("", ENTRIES)
    return {
        name.removesuffix(ending): var
        for (role, name), var in taken.items()
        if role is Role.INDEX and name.endswith(ending)
    }


def numbers_of(weight: relax.Var, entries: relax.Var | None) -> Numbers:
    """What kernels that work in place have to know of a weight, or of a tensor of its shape."""
    return Numbers(shape_of(weight), None if entries is None else dtype_of(entries))


def optimizer_state(taken: Named, rule: Optimizer) -> Named:
    """New arguments for what an optimiser keeps of a function's parameters, and for its hypers."""
    weights = {name: var for (role, name), var in taken.items() if role is Role.PARAMETER}
    slots = {
        (Role.SLOT, part_of(name, slot)): relax.Var(f"{slot}_{w.name}", w.ty)
        for slot in rule.slots
        for name, w in weights.items()
    }
    (dtype,) = {dtype_of(w) for w in weights.values()}
    return slots | {(Role.HYPER, HYPER): relax.Var(HYPER, relax.TensorType([len(rule.hypers)], dtype))}


def update_weights(
    builder: relax.BlockBuilder,
    made: KernelTable,
    device: Device,
    rule: Optimizer,
    taken: Named,
    gradients: Mapping[str, relax.Expr],
) -> Named:
    """Emits the optimiser in place. taken: arguments, with those of `optimizer_state`; where the weight of the whole
    loss is among them, gradients are divided by it.

    Gives weight and slots of each parameter in turn.
    """
    results: Named = {}
    entries, made_by = entries_of(taken), generators(device)
    for name, gradient in gradients.items():
        keys = [(Role.PARAMETER, name), *((Role.SLOT, part_of(name, slot)) for slot in rule.slots)]
        state = [taken[key] for key in keys]
        w, places = state[0], list(range(len(state)))
        vec = made_by.emit.Vec(device.lanes(dtype_of(w)), dtype_of(w))
        args, shared = [*state, gradient, taken[Role.HYPER, HYPER]], WEIGHT_SUM in taken
        args += [taken[WEIGHT_SUM]] if shared else []
        args += [entries[name]] if name in entries else []
        make = Partial(made_by.update.update, rule, numbers_of(w, entries.get(name)), vec, device.threads, shared)
        types = [var.ty for var in state]
        new = builder.emit(relax.op.call_tir_inplace(made.get(make), args, places, types if places[1:] else w.ty))
        parts = [builder.emit(relax.TupleGetItem(new, k)) for k in places] if places[1:] else [new]
        results |= dict(zip(keys, parts, strict=True))
    return results


def assign_buffers(builder: relax.BlockBuilder, made: KernelTable, device: Device, taken: Named, found: Named) -> Named:
    """Emits what writes the new values of buffers, among what a traced function gives, where the old ones stand."""
    results: Named = {}
    for key, value in found.items():
        if key[0] is Role.BUFFER:
            old = taken[key]
            if not (isinstance(value, relax.Var) and _in_place(builder, value)):
                function = made.get(Partial(generators(device).elementwise.assign, shape_of(old), dtype_of(old)))
                value = builder.emit(relax.op.call_tir_inplace(function, [old, value], [0], old.ty))
            results[key] = value
    return results


def _in_place(builder: relax.BlockBuilder, value: relax.Var) -> bool:
    """Whether a value is an item of an in-place call, of which only those that update statistics give several: already
    written where it belongs."""
    expr = builder.lookup_binding(value)
    if not isinstance(expr, relax.TupleGetItem):
        return False
    call = builder.lookup_binding(expr.tuple_value)
    return isinstance(call, relax.Call) and str(getattr(call.op, "name", "")) == "relax.call_tir_inplace"
