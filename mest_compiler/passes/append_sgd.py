"""A compiler pass that appends the optimiser to a training step: SGD in place, on dense and on compact weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tvm import relax

from mest_compiler.devices import Device
from mest_compiler.kernels.sgd import Sgd
from mest_compiler.schedules import generators
from mest_compiler.schedules.partial import Partial
from mest_compiler.signature import ENTRIES, MOMENTUM, RATE, STEP, FunctionSignature, Role, part_of

from .program import (
    Env,
    KernelTable,
    Program,
    carry_body,
    carry_kernels,
    dtype_of,
    rebuild,
    relax_functions,
    shape_of,
)
from .step_program import Named, StepProgram, named, write


class AppendSgd:
    """step(state, x, y[, seed], index arrays) -> (loss, output, gradients, buffers) becomes
    step(state, x, y[, seed], index arrays, slots, lr) ->
    (loss, output, gradients of the sparse parameters, updated tensors, the other arguments).

    Mutation needs those gradients. The updated tensors alias the inputs: Relax takes in-place calls for pure and would
    remove those whose results nobody uses. With the others, every argument is a result too: what a step computes on
    over RPC are copies of what it was given, and so the other side gets hold of them.
    """

    def __init__(self, device: Device, rule: Sgd) -> None:
        self.device, self.rule = device, rule

    def __call__(self, program: StepProgram) -> StepProgram:
        """The program with its step updating its own state."""
        builder = relax.BlockBuilder()
        kernels, signature = carry_kernels(builder, program.module), dict(program.signature)
        for name, function in relax_functions(program.module):
            old = Program.of(function)
            if name == STEP:
                signature[name] = self._step(builder, old, signature[name], kernels)
            else:
                rebuild(builder, name, old.params, lambda b, p=old: carry_body(b, p, dict(kernels)), old.single)
        return replace(program, module=builder.finalize(), signature=signature)

    def _step(
        self, builder: relax.BlockBuilder, old: Program, signature: FunctionSignature, kernels: Env
    ) -> FunctionSignature:
        taken = named(signature.arguments, old.params)
        taken |= optimizer_state(taken)

        def body(builder: relax.BlockBuilder) -> Named:
            found = named(signature.results, carry_body(builder, old, dict(kernels)))
            made = KernelTable(builder)
            gradients = {name: value for (role, name), value in found.items() if role is Role.GRADIENT}
            updated = update_weights(builder, made, self.device, self.rule, taken, gradients)
            updated |= assign_buffers(builder, made, self.device, taken, found)
            handed_out = {key: value for key, value in found.items() if key[0] in (Role.LOSS, Role.OUTPUT)}
            handed_out |= {(Role.GRADIENT, name): gradients[name] for name in entries_of(taken)}
            return handed_out | updated | {key: var for key, var in taken.items() if key not in updated}

        return write(builder, STEP, taken, body)


def entries_of(taken: Named) -> dict[str, relax.Var]:
    """Of a function's arguments those that hold how many entries sparse parameters have, by parameter."""
    ending = part_of("", ENTRIES)
    return {
        name.removesuffix(ending): var
        for (role, name), var in taken.items()
        if role is Role.INDEX and name.endswith(ending)
    }


def optimizer_state(taken: Named) -> Named:
    """New arguments for what an optimiser keeps of a function's parameters, and for its learning rate."""
    weights = {name: var for (role, name), var in taken.items() if role is Role.PARAMETER}
    slots = {(Role.SLOT, part_of(name, MOMENTUM)): relax.Var("v_" + w.name, w.ty) for name, w in weights.items()}
    dtype = dtype_of(next(iter(weights.values())))
    return slots | {(Role.HYPER, RATE): relax.Var(RATE, relax.TensorType((), dtype))}


def update_weights(
    builder: relax.BlockBuilder,
    made: KernelTable,
    device: Device,
    rule: Sgd,
    taken: Named,
    gradients: Mapping[str, relax.Expr],
) -> Named:
    """Emits SGD in place. taken: arguments, with those of `optimizer_state`.

    Gives weight and momentum of each parameter in turn.
    """
    results: Named = {}
    entries, made_by = entries_of(taken), generators(device)
    for name, gradient in gradients.items():
        keys = (Role.PARAMETER, name), (Role.SLOT, part_of(name, MOMENTUM))
        w, v = (taken[key] for key in keys)
        shape, vec = shape_of(w), made_by.emit.Vec(device.lanes(dtype_of(w)), dtype_of(w))
        args = [w, v, gradient, taken[Role.HYPER, RATE]]
        if name in entries:
            args.append(entries[name])
            make = Partial(made_by.sgd.compact, rule, *shape, dtype_of(entries[name]), vec, device.threads)
        else:
            make = Partial(made_by.sgd.dense, rule, shape, vec, device.threads)
        new = builder.emit(relax.op.call_tir_inplace(made.get(make), args, [0, 1], [w.ty, v.ty]))
        results |= {key: builder.emit(relax.TupleGetItem(new, k)) for k, key in enumerate(keys)}
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
    """Whether a value is an item of an in-place call: already written where it belongs."""
    expr = builder.lookup_binding(value)
    if not isinstance(expr, relax.TupleGetItem):
        return False
    call = builder.lookup_binding(expr.tuple_value)
    return isinstance(call, relax.Call) and str(getattr(call.op, "name", "")) == "relax.call_tir_inplace"
