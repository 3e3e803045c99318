"""A compiler pass that has convolutions compute the batch norm in front of them themselves, a batch tile at a time.

Its output is then neither written to memory nor read back; of the batch norm its statistics are left.
"""

from __future__ import annotations

import tvm
from tvm import relax

from mest_compiler.frontend.ops import attributes

from .ops import call, changed
from .program import Change, Env, Program, op_name, rewrite, substitute

_CONVOLUTIONS = ("mest.conv2d", "mest.sparse_conv2d")


@tvm.transform.module_pass(opt_level=0, name="FuseForwardInputs")
class FuseForwardInputs:
    """Gives a convolution that is the only reader of a mest.normalise without a residual what that one read.

    To be run after FuseWeightGradients: a weight gradient that reads the output is a reader too.
    """

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with (x, weight) -> y as (x, weight, w, b, mean, rstd) -> y, marked `recompute`, and
        mest.batch_statistics where mest.normalise was."""
        return rewrite(mod, _changes)


def _changes(program: Program) -> Change:
    defined, items, users = program.definitions(), program.items(), program.users()
    convolutions: dict[relax.Var, relax.Var] = {}  # convolution -> the batch norm in front of it
    outputs: set[relax.Var] = set()
    for norm, expr in program.bindings:
        if op_name(expr) != "mest.normalise" or attributes(expr)["residual"] or not {0, 1, 2} <= set(items[norm]):
            continue
        output = items[norm][0]
        (reader, *others) = users[output]
        if not others and op_name(defined.get(reader)) in _CONVOLUTIONS and defined[reader].args[0].same_as(output):
            convolutions[reader] = norm
            outputs.add(output)
    norms = set(convolutions.values())

    def change(var: relax.Var, expr: relax.Expr, env: Env) -> relax.Expr | None:
        if var in outputs:
            return None
        if isinstance(expr, relax.TupleGetItem) and expr.tuple_value in norms:
            return relax.TupleGetItem(env[expr.tuple_value], expr.index - 1)
        new = substitute(expr, env)
        if var in norms:
            x, _, _, *running = new.args
            kept = {key: value for key, value in attributes(expr).items() if key in ("momentum", "eps")}
            return call("mest.batch_statistics", [x, *running], expr, **kept)
        if var in convolutions:
            norm = convolutions[var]
            x, *affine = defined[norm].args[:3]
            args = [x, expr.args[1], *affine, items[norm][1], items[norm][2]]
            read = attributes(defined[norm])
            return changed(new, [substitute(a, env) for a in args], recompute=1, relu=read["relu"], upper=read["upper"])
        return new

    return change
