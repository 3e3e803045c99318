"""A compiler pass that makes a training step one part of a larger one: it adds its gradients to those of the parts
before it, and a function of its own updates the weights once all parts are through.
"""

from __future__ import annotations

from collections import defaultdict

from tvm import relax

from mest_compiler.devices import Device
from mest_compiler.optimizers import Optimizer
from mest_compiler.schedules import generators
from mest_compiler.schedules.partial import Partial
from mest_compiler.signature import ENTRIES, STEP, UPDATE, FunctionSignature, Role, StepSignature, part_of

from .append_optimizer import (
    RESULTS,
    WEIGHT_SUM,
    assign_buffers,
    entries_of,
    numbers_of,
    optimizer_state,
    update_weights,
)
from .program import (
    Env,
    KernelTable,
    Program,
    carry_body,
    dtype_of,
)
from .step_program import Named, StepProgram, named, with_step, write

FIRST = (Role.FIRST, "first")


class AccumulateGradients:
    """step(state, x, y[, seed], index arrays) -> (loss's sum, its weight, output, gradients, buffers) becomes
    step(state, x, y[, seed], index arrays, accumulators, first) ->
    (loss's sum, its weight, output, accumulators, updated buffers) and
    update(parameters, entries, accumulators, slots, hypers) -> (weight and slots of each parameter in turn).

    accumulator = (0 if first else accumulator) + gradient, with `first` int32 []; the weights are added up likewise,
    and the update divides by their sum: whatever the parts weigh, that is the gradient of the whole loss. entries: the
    numbers of entries of the sparse parameters, in parameter order. All results but those of the loss and the outputs
    alias arguments, as in `AppendOptimizer`.
    """

    def __init__(self, device: Device, rule: Optimizer) -> None:
        self.device, self.rule = device, rule

    def __call__(self, program: StepProgram) -> StepProgram:
        """The program with its step adding up gradients, and with `update`."""
        return with_step(program, self._both)

    def _both(
        self, builder: relax.BlockBuilder, old: Program, signature: FunctionSignature, kernels: Env
    ) -> StepSignature:
        step = self._step(builder, old, signature, kernels)
        return {STEP: step, UPDATE: self._update(builder, named(signature.arguments, old.params))}

    def _step(
        self, builder: relax.BlockBuilder, old: Program, signature: FunctionSignature, kernels: Env
    ) -> FunctionSignature:
        taken = named(signature.arguments, old.params)
        sums, entries = _accumulators(taken), entries_of(taken)
        taken |= sums | {FIRST: relax.Var(FIRST[1], relax.TensorType((), "int32"))}
        waiting: dict[relax.Expr, list[str]] = defaultdict(list)  # several where parameters share a gradient
        for name, place in signature.result_places(Role.GRADIENT, Role.WEIGHT).items():
            waiting[old.outputs[place]].append(name)

        def body(builder: relax.BlockBuilder) -> Named:
            made = KernelTable(builder)
            summed: dict[str, relax.Expr] = {}

            def add(old_value: relax.Expr, gradient: relax.Expr) -> None:
                """At once, so that the gradients of all layers never take memory at the same time."""
                for name in waiting.pop(old_value, ()):
                    total = sums[Role.ACCUMULATOR, name]
                    summed[name] = self._added(builder, made, total, gradient, taken[FIRST], entries.get(name))

            found = named(signature.results, carry_body(builder, old, dict(kernels), follow=add))
            given = {name: value for (role, name), value in found.items() if role in (Role.GRADIENT, Role.WEIGHT)}
            for value, names in list(waiting.items()):  # what no binding makes
                add(value, given[names[0]])
            handed_out = {key: value for key, value in found.items() if key[0] in RESULTS}
            handed_out |= {key: summed[key[1]] for key in sums}
            return handed_out | assign_buffers(builder, made, self.device, taken, found)

        return write(builder, STEP, taken, body)

    def _added(
        self, builder: relax.BlockBuilder, made: KernelTable, total: relax.Var, gradient: relax.Expr, first: relax.Var,
        entries: relax.Var | None,
    ) -> relax.Expr:  # fmt: skip
        chunks, made_by = self.device.threads, generators(self.device)
        vec = made_by.emit.Vec(self.device.lanes(dtype_of(total)), dtype_of(total))
        args = [total, gradient, first, *([] if entries is None else [entries])]
        make = Partial(made_by.accumulate.accumulate, numbers_of(total, entries), vec, chunks)
        return builder.emit(relax.op.call_tir_inplace(made.get(make), args, [0], total.ty))

    def _update(self, builder: relax.BlockBuilder, step: Named) -> FunctionSignature:
        weights = {key: _copy(var) for key, var in step.items() if key[0] is Role.PARAMETER}
        found = entries_of(step)
        entries = {(Role.INDEX, part_of(name, ENTRIES)): _copy(found[name]) for _, name in weights if name in found}
        sums = _accumulators(weights)
        gradients = {name: var for (_, name), var in sums.items() if (Role.ACCUMULATOR, name) != WEIGHT_SUM}
        taken = weights | entries | sums | optimizer_state(weights, self.rule)

        def body(builder: relax.BlockBuilder) -> Named:
            return update_weights(builder, KernelTable(builder), self.device, self.rule, taken, gradients)

        return write(builder, UPDATE, taken, body)


def _copy(var: relax.Var) -> relax.Var:
    return relax.Var(var.name, var.ty)


def _accumulators(taken: Named) -> Named:
    """New arguments for the sums of the gradients of all parameters, and for that of the parts' weights."""
    sums = {
        (Role.ACCUMULATOR, name): relax.Var("g_" + var.name, var.ty)
        for (role, name), var in taken.items()
        if role is Role.PARAMETER
    }
    (dtype,) = {dtype_of(var) for var in sums.values()}
    return sums | {WEIGHT_SUM: relax.Var("weight_sum", relax.TensorType((), dtype))}
