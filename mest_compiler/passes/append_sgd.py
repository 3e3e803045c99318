"""A compiler pass that appends the optimiser to a training step: SGD in place, on dense and on compact weights."""

from __future__ import annotations

import tvm
from tvm import relax

from mest_compiler.devices.cpu import CpuProfile
from mest_compiler.schedules.cpu import sgd
from mest_compiler.schedules.cpu.elementwise import assign
from mest_compiler.schedules.cpu.emit import Vec
from mest_compiler.schedules.cpu.sgd import Sgd

from .program import Env, KernelTable, Program, carry_kernels, dtype_of, rebuild, relax_functions, shape_of, substitute


@tvm.transform.module_pass(opt_level=0, name="AppendSgd")
class AppendSgd:
    """step(parameters, buffers, x, y[, seed], index arrays) -> (loss, logits, gradients, buffers) becomes
    step(parameters, buffers, x, y[, seed], index arrays, momenta, lr) ->
    (loss, logits, gradients of the sparse parameters, updated tensors).

    Mutation needs those gradients. The updated tensors alias the inputs: Relax takes in-place calls for pure and would
    remove those whose results nobody uses.
    """

    def __init__(
        self, device: CpuProfile, rule: Sgd, parameters: tuple[str, ...], buffers: tuple[str, ...],
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
        single = not isinstance(program.result, relax.Tuple)
        params = list(program.params)
        if name == "step":
            weights = params[: len(self.parameters)]
            momenta = [relax.Var("v_" + w.name, w.ty) for w in weights]
            lr = relax.Var("lr", relax.TensorType((), dtype_of(weights[0])))
            params += [*momenta, lr]

        def body(builder: relax.BlockBuilder) -> list[relax.Expr]:
            env: Env = dict(kernels)
            for var, expr in program.bindings:
                env[var] = builder.emit(substitute(expr, env), var.name)
            outputs = [substitute(out, env) for out in program.outputs]
            if name != "step":
                return outputs
            gradients = [g for p, g in zip(self.parameters, outputs[2:], strict=False) if p in self.entries]
            return [*outputs[:2], *gradients, *self._updates(builder, params, momenta, lr, outputs[2:])]

        rebuild(builder, name, params, body, single)

    def _updates(
        self,
        builder: relax.BlockBuilder,
        params: list[relax.Var],
        momenta: list[relax.Var],
        lr: relax.Var,
        outputs: list[relax.Expr],
    ) -> list[relax.Expr]:
        made = KernelTable(builder)
        results: list[relax.Expr] = []
        chunks = self.device.threads
        for i, name in enumerate(self.parameters):
            w, v, g = params[i], momenta[i], outputs[i]
            shape, vec = shape_of(w), Vec(self.device.lanes(dtype_of(w)), dtype_of(w))
            args = [w, v, g, lr]
            if name in self.entries:
                entries = params[self.entries[name]]
                args.append(entries)
                kind = dtype_of(entries)
                function = made.get(
                    ("compact", shape, kind, vec),
                    lambda shape=shape, kind=kind, vec=vec: sgd.compact(self.rule, *shape, kind, vec, chunks),
                )
            else:
                function = made.get(
                    ("dense", shape, vec),
                    lambda shape=shape, vec=vec: sgd.dense(self.rule, shape, vec, chunks),
                )
            new = builder.emit(relax.op.call_tir_inplace(function, args, [0, 1], [w.ty, v.ty]))
            results += [builder.emit(relax.TupleGetItem(new, k)) for k in (0, 1)]
        first = len(self.parameters)
        for i in range(len(self.buffers)):
            old, value = params[first + i], outputs[first + i]
            shape, dtype = shape_of(old), dtype_of(old)
            if not (isinstance(value, relax.Var) and _in_place(builder, value)):
                function = made.get(("assign", shape, dtype), lambda shape=shape, dtype=dtype: assign(shape, dtype))
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
