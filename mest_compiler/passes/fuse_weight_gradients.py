"""A compiler pass that has weight gradients compute batch norm's output again from its input, a batch tile at a time.

The output then need not wait from forward for backward, and backward reads what waits there anyway.
"""

from __future__ import annotations

import tvm
from tvm import relax

from mest_compiler.frontend.ops import attributes

from .ops import changed
from .program import Program, carry_kernels, op_name, rebuild, relax_functions, substitute

_GRADIENTS = ("mest.conv2d_backward_weight", "mest.sparse_conv2d_backward_weight")


@tvm.transform.module_pass(opt_level=0, name="FuseWeightGradients")
class FuseWeightGradients:
    """Gives every weight gradient of a convolution behind a mest.normalise without a residual what that one read."""

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with (gy, z) -> gw as (gy, x, w, b, mean, rstd) -> gw, marked `again`."""
        builder = relax.BlockBuilder()
        kernels = carry_kernels(builder, mod)
        for name, function in relax_functions(mod):
            program = Program.of(function)

            def body(builder: relax.BlockBuilder, program: Program = program) -> list[relax.Expr]:
                env, sources = dict(kernels), _sources(program)
                for var, expr in program.bindings:
                    new = substitute(expr, env)
                    if op_name(expr) in _GRADIENTS and expr.args[1] in sources:
                        args, attrs = sources[expr.args[1]]
                        new = changed(new, [new.args[0], *(substitute(a, env) for a in args)], **attrs)
                    env[var] = new if isinstance(expr, relax.Tuple) else builder.emit(new, var.name)
                return [substitute(out, env) for out in program.outputs]

            rebuild(builder, name, program.params, body, not isinstance(program.result, relax.Tuple))
        return builder.finalize()


def _sources(program: Program) -> dict[relax.Var, tuple[list[relax.Expr], dict[str, object]]]:
    """Output of a batch norm without a residual -> what it is computed from again, and how."""
    found = {}
    for var, items in program.items().items():
        expr = program.definitions().get(var)
        if op_name(expr) == "mest.normalise" and not attributes(expr)["residual"] and {0, 1, 2} <= set(items):
            a = attributes(expr)
            args = [*expr.args[:3], items[1], items[2]]
            found[items[0]] = args, {"again": 1, "relu": a["relu"], "upper": a["upper"]}
    return found
