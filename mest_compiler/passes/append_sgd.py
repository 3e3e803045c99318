"""A compiler pass that appends the optimiser to a training step: SGD in place, on dense and on compact weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tvm
from tvm import relax

from mest_compiler.devices import Device
from mest_compiler.kernels.sgd import Sgd
from mest_compiler.schedules import generators
from mest_compiler.schedules.partial import Partial

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


@tvm.transform.module_pass(opt_level=0, name="AppendSgd")
class AppendSgd:
    """step(parameters, buffers, x, y[, seed], index arrays) -> (loss, logits, gradients, buffers) becomes
    step(parameters, buffers, x, y[, seed], index arrays, momenta, lr) ->
    (loss, logits, gradients of the sparse parameters, updated tensors, the other arguments).

    Mutation needs those gradients. The updated tensors alias the inputs: Relax takes in-place calls for pure and would
    remove those whose results nobody uses. With the others, every argument is a result too: what a step computes on
    over RPC are copies of what it was given, and so the other side gets hold of them. Afterwards `places` says which
    result each argument is.
    """

    places: tuple[int, ...] = ()

    def __init__(
        self, device: Device, rule: Sgd, parameters: tuple[str, ...], buffers: tuple[str, ...],
        entries: dict[str, int],
    ) -> None:  # fmt: skip
        """`entries`: for a sparse parameter, the position among the step's arguments of its number of entries."""
        self.device, self.rule, self.parameters, self.buffers = device, rule, parameters, buffers
        self.entries = entries

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with its step updating its own state."""
        builder = relax.BlockBuilder()
        kernels = carry_kernels(builder, mod)
        for name, function in relax_functions(mod):
            self._function(builder, name, Program.of(function), kernels)
        return builder.finalize()

    def _function(self, builder: relax.BlockBuilder, name: str, program: Program, kernels: Env) -> None:
        params = list(program.params)
        if name == "step":
            count = len(self.parameters)
            weights, buffers = params[:count], params[count : count + len(self.buffers)]
            entries = {p: params[i] for p, i in self.entries.items()}
            momenta, lr = optimizer_state(weights)
            params += [*momenta, lr]

        def body(builder: relax.BlockBuilder) -> list[relax.Expr]:
            outputs = carry_body(builder, program, dict(kernels))
            if name != "step":
                return outputs
            loss, logits, *rest = outputs
            gradients = dict(zip(self.parameters, rest, strict=False))
            made = KernelTable(builder)
            updated = update_weights(
                builder, made, self.device, self.rule, dict(zip(self.parameters, weights, strict=True)), momenta,
                gradients, lr, entries,
            )  # fmt: skip
            kept = assign_buffers(builder, made, self.device, buffers, rest[count:])
            handed_out = [loss, logits, *(gradients[p] for p in self.parameters if p in entries)]
            data = params[count + len(buffers) : -count - 1]  # x, y, seed, index arrays
            first, state = len(handed_out), len(handed_out) + 2 * count
            others = state + len(kept)
            self.places = (
                *range(first, state, 2), *range(state, others), *range(others, others + len(data)),
                *range(first + 1, state, 2), others + len(data),
            )  # fmt: skip
            return [*handed_out, *updated, *kept, *data, lr]

        rebuild(builder, name, params, body, program.single)


def optimizer_state(weights: Sequence[relax.Var]) -> tuple[list[relax.Var], relax.Var]:
    """The parameters of a function that hold the momenta of these weights, and the one that holds the learning rate."""
    momenta = [relax.Var("v_" + w.name, w.ty) for w in weights]
    return momenta, relax.Var("lr", relax.TensorType((), dtype_of(weights[0])))


def update_weights(
    builder: relax.BlockBuilder, made: KernelTable, device: Device, rule: Sgd, weights: Mapping[str, relax.Var],
    momenta: Sequence[relax.Var], gradients: Mapping[str, relax.Expr], lr: relax.Var, entries: Mapping[str, relax.Var],
) -> list[relax.Expr]:  # fmt: skip
    """Emits SGD in place. entries: of a sparse parameter, the argument that holds its number of entries.

    Gives weight and momentum of each parameter in turn.
    """
    results: list[relax.Expr] = []
    chunks, made_by = device.threads, generators(device)
    sgd = made_by.sgd
    for (name, w), v in zip(weights.items(), momenta, strict=True):
        shape, vec = shape_of(w), made_by.emit.Vec(device.lanes(dtype_of(w)), dtype_of(w))
        args = [w, v, gradients[name], lr]
        if name in entries:
            args.append(entries[name])
            function = made.get(Partial(sgd.compact, rule, *shape, dtype_of(entries[name]), vec, chunks))
        else:
            function = made.get(Partial(sgd.dense, rule, shape, vec, chunks))
        new = builder.emit(relax.op.call_tir_inplace(function, args, [0, 1], [w.ty, v.ty]))
        results += [builder.emit(relax.TupleGetItem(new, k)) for k in (0, 1)]
    return results


def assign_buffers(
    builder: relax.BlockBuilder,
    made: KernelTable,
    device: Device,
    buffers: Sequence[relax.Var],
    values: Sequence[relax.Expr],
) -> list[relax.Expr]:
    """Emits what writes the new values of buffers where the old ones stand."""
    results: list[relax.Expr] = []
    for old, value in zip(buffers, values, strict=True):
        if not (isinstance(value, relax.Var) and _in_place(builder, value)):
            function = made.get(Partial(generators(device).elementwise.assign, shape_of(old), dtype_of(old)))
            value = builder.emit(relax.op.call_tir_inplace(function, [old, value], [0], old.ty))
        results.append(value)
    return results


def _in_place(builder: relax.BlockBuilder, value: relax.Var) -> bool:
    """Whether a value is an item of an in-place call: already written where it belongs."""
    expr = builder.lookup_binding(value)
    if not isinstance(expr, relax.TupleGetItem):
        return False
    call = builder.lookup_binding(expr.tuple_value)
    return isinstance(call, relax.Call) and str(getattr(call.op, "name", "")) == "relax.call_tir_inplace"
