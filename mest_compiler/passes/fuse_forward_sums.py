"""A compiler pass that has convolutions take the sums of the batch norm behind them while their result is in registers.

Batch norm then reads its input once, where it would read it for the mean, for the variance and for the result.
"""

from __future__ import annotations

import tvm
from tvm import relax

from .ops import changed
from .program import Program, carry_kernels, op_name, rebuild, relax_functions, substitute

_CONVOLUTIONS = ("mest.conv2d", "mest.sparse_conv2d")


@tvm.transform.module_pass(opt_level=0, name="FuseForwardSums")
class FuseForwardSums:
    """Marks every mest.normalise whose input a convolution writes, and that convolution, with `sums`."""

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with its calls marked."""
        builder = relax.BlockBuilder()
        kernels = carry_kernels(builder, mod)
        for name, function in relax_functions(mod):
            program = Program.of(function)
            marked, env = _marked(program), dict(kernels)

            def body(builder, program=program, marked=marked, env=env) -> list[relax.Expr]:
                for var, expr in program.bindings:
                    new = substitute(expr, env)
                    if isinstance(expr, relax.Tuple):
                        env[var] = new
                    else:
                        env[var] = builder.emit(changed(new, new.args, sums=1) if var in marked else new, var.name)
                return [substitute(out, env) for out in program.outputs]

            rebuild(builder, name, program.params, body, not isinstance(program.result, relax.Tuple))
        return builder.finalize()


def _marked(program: Program) -> set[relax.Var]:
    defined, found = program.definitions(), set()
    for var, expr in program.bindings:
        if op_name(expr) == "mest.normalise" and op_name(defined.get(expr.args[0])) in _CONVOLUTIONS:
            found |= {var, expr.args[0]}
    return found
