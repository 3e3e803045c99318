"""A compiler pass that has convolutions take the sums of the batch norm behind them while their result is in registers.

Batch norm then reads its input once, where it would read it for the mean, for the variance and for the result.
"""

from __future__ import annotations

import tvm
from tvm import relax

from .ops import changed
from .program import Change, Env, Program, op_name, rewrite, substitute

_CONVOLUTIONS = ("mest.conv2d", "mest.sparse_conv2d")
_NORMS = ("mest.normalise", "mest.batch_statistics")


@tvm.transform.module_pass(opt_level=0, name="FuseForwardSums")
class FuseForwardSums:
    """Marks every mest.normalise or mest.batch_statistics whose input a convolution writes, and that convolution, with
    `sums`."""

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with its calls marked."""
        return rewrite(mod, _changes)


def _changes(program: Program) -> Change:
    marked = _marked(program)

    def change(var: relax.Var, expr: relax.Expr, env: Env) -> relax.Expr:
        new = substitute(expr, env)
        return changed(new, new.args, sums=1) if var in marked else new

    return change


def _marked(program: Program) -> set[relax.Var]:
    defined, found = program.definitions(), set()
    for var, expr in program.bindings:
        if op_name(expr) in _NORMS and op_name(defined.get(expr.args[0])) in _CONVOLUTIONS:
            found |= {var, expr.args[0]}
    return found
