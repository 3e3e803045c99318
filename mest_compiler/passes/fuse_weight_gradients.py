"""A compiler pass that has weight gradients compute batch norm's output again from its input, a batch tile at a time.

The output then need not wait from forward for backward, and backward reads what waits there anyway.
"""

from __future__ import annotations

import tvm
from tvm import relax

from mest_compiler.frontend.ops import attributes

from .ops import changed
from .program import Change, Env, Program, op_name, rewrite, substitute

_GRADIENTS = ("mest.conv2d_backward_weight", "mest.sparse_conv2d_backward_weight")


@tvm.transform.module_pass(opt_level=0, name="FuseWeightGradients")
class FuseWeightGradients:
    """Gives every weight gradient of a convolution behind a mest.normalise without a residual what that one read."""

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with (gy, z) -> gw as (gy, x, w, b, mean, rstd) -> gw, marked `recompute`."""
        return rewrite(mod, _changes)


def _changes(program: Program) -> Change:
    sources = _sources(program)

    def change(_: relax.Var, expr: relax.Expr, env: Env) -> relax.Expr:
        new = substitute(expr, env)
        if op_name(expr) not in _GRADIENTS or expr.args[1] not in sources:
            return new
        args, attrs = sources[expr.args[1]]
        return changed(new, [new.args[0], *(substitute(a, env) for a in args)], **attrs)

    return change


def _sources(program: Program) -> dict[relax.Var, tuple[list[relax.Expr], dict[str, object]]]:
    """Output of a batch norm without a residual -> what it is computed from again, and how."""
    found = {}
    for var, items in program.items().items():
        expr = program.definitions().get(var)
        if op_name(expr) == "mest.normalise" and not attributes(expr)["residual"] and {0, 1, 2} <= set(items):
            a = attributes(expr)
            args = [*expr.args[:3], items[1], items[2]]
            found[items[0]] = args, {"recompute": 1, "relu": a["relu"], "upper": a["upper"]}
    return found
