"""A compiler pass that makes a training step one part of a larger one: it adds its gradients to those of the parts
before it, and a function of its own updates the weights once all parts are through.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import tvm
from tvm import relax

from mest_compiler.devices import Device
from mest_compiler.kernels.sgd import Sgd
from mest_compiler.schedules import generators
from mest_compiler.schedules.partial import Partial

from .append_sgd import assign_buffers, optimizer_state, update_weights
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

UPDATE = "update"
"""Name of the function that updates the weights."""


@tvm.transform.module_pass(opt_level=0, name="AccumulateGradients")
class AccumulateGradients:
    """step(parameters, buffers, x, y[, seed], index arrays) -> (loss, logits, gradients, buffers) becomes
    step(parameters, buffers, x, y[, seed], index arrays, accumulators, first) ->
    (loss, logits, accumulators, updated buffers) and
    update(parameters, entries, accumulators, momenta, lr) -> (weight and momentum of each parameter in turn).

    accumulator = (0 if first else accumulator) + gradient / parts, with `first` int32 []: what k calls leave there is
    the gradient of the mean of their losses. entries: the numbers of entries of the sparse parameters, in parameter
    order. All outputs but loss and logits alias inputs, as in `AppendSgd`.
    """

    def __init__(
        self, device: Device, rule: Sgd, parameters: tuple[str, ...], buffers: tuple[str, ...],
        entries: dict[str, int], parts: int,
    ) -> None:  # fmt: skip
        """As AppendSgd; `parts`: how many calls of the step an update follows."""
        self.device, self.rule, self.parameters, self.buffers = device, rule, parameters, buffers
        self.entries, self.parts = entries, parts

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with its step adding up gradients, and with `update`."""
        builder = relax.BlockBuilder()
        kernels = carry_kernels(builder, mod)
        for name, function in relax_functions(mod):
            program = Program.of(function)
            if name == "step":
                self._step(builder, program, kernels)
                self._update(builder, program.params)
            else:
                rebuild(
                    builder, name, program.params, lambda b, p=program: carry_body(b, p, dict(kernels)), program.single
                )
        return builder.finalize()

    def _step(self, builder: relax.BlockBuilder, program: Program, kernels: Env) -> None:
        count = len(self.parameters)
        weights, buffers = program.params[:count], program.params[count : count + len(self.buffers)]
        sums = _accumulators(weights)
        first = relax.Var("first", relax.TensorType((), "int32"))
        entries = {p: program.params[i] for p, i in self.entries.items()}

        places: dict[relax.Expr, list[int]] = defaultdict(list)  # several where parameters share a gradient
        for i, gradient in enumerate(program.outputs[2 : 2 + count]):
            places[gradient].append(i)
        summed: dict[int, relax.Expr] = {}

        def body(builder: relax.BlockBuilder) -> list[relax.Expr]:
            made = KernelTable(builder)

            def add(old: relax.Expr, gradient: relax.Expr) -> None:
                """At once, so that the gradients of all layers never take memory at the same time."""
                for i in places.pop(old, ()):
                    filled = entries.get(self.parameters[i])
                    summed[i] = self._added(builder, made, sums[i], gradient, first, filled)

            loss, logits, *rest = carry_body(builder, program, dict(kernels), follow=add)
            for old in list(places):  # what no binding makes
                add(old, rest[places[old][0]])
            kept = assign_buffers(builder, made, self.device, buffers, rest[count:])
            return [loss, logits, *(summed[i] for i in range(count)), *kept]

        rebuild(builder, "step", [*program.params, *sums, first], body, single=False)

    def _added(
        self, builder: relax.BlockBuilder, made: KernelTable, total: relax.Var, gradient: relax.Expr, first: relax.Var,
        entries: relax.Var | None,
    ) -> relax.Expr:  # fmt: skip
        scale, chunks, made_by = 1 / self.parts, self.device.threads, generators(self.device)
        sgd = made_by.sgd
        shape, vec = shape_of(total), made_by.emit.Vec(self.device.lanes(dtype_of(total)), dtype_of(total))
        args = [total, gradient, first]
        if entries is not None:
            args.append(entries)
            function = made.get(Partial(sgd.accumulate_compact, scale, *shape, dtype_of(entries), vec, chunks))
        else:
            function = made.get(Partial(sgd.accumulate_dense, scale, shape, vec, chunks))
        return builder.emit(relax.op.call_tir_inplace(function, args, [0], total.ty))

    def _update(self, builder: relax.BlockBuilder, step: Sequence[relax.Var]) -> None:
        def copy(var: relax.Var) -> relax.Var:
            return relax.Var(var.name, var.ty)

        weights = {p: copy(var) for p, var in zip(self.parameters, step, strict=False)}
        entries = {p: copy(step[self.entries[p]]) for p in self.parameters if p in self.entries}
        sums = _accumulators(list(weights.values()))
        momenta, lr = optimizer_state(list(weights.values()))
        gradients = dict(zip(self.parameters, sums, strict=True))

        def body(builder: relax.BlockBuilder) -> list[relax.Expr]:
            made = KernelTable(builder)
            return update_weights(builder, made, self.device, self.rule, weights, momenta, gradients, lr, entries)

        rebuild(builder, UPDATE, [*weights.values(), *entries.values(), *sums, *momenta, lr], body, single=False)


def _accumulators(weights: Sequence[relax.Var]) -> list[relax.Var]:
    return [relax.Var("g_" + w.name, w.ty) for w in weights]
