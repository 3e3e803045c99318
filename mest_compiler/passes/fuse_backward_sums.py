"""A compiler pass that has backward-data mask the gradient that it writes for a batch norm, and take its sums.

The batch norm's backward then reads that gradient and its own input once, where it would read them for the sums and
again for the result.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from mest_compiler.frontend.ops import attributes

from .ops import changed
from .program import Change, Env, Program, op_name, rewrite, substitute

_BACKWARD_DATA = ("mest.conv2d_backward_data", "mest.sparse_conv2d_backward_data")
_PLAIN = {"relu": 0, "upper": math.inf, "residual": 0, "keep": 0}
_BEFORE_Z = 5  # arguments of mest.normalise_backward: x, w, b, mean, rstd


@tvm.transform.module_pass(opt_level=0, name="FuseBackwardSums")
class FuseBackwardSums:
    """Moves the ReLU of every mest.normalise_backward that a backward-data gives its only gradient into that call.

    A gradient with other readers, a second one beside it, or one that a residual's branch reads once it is masked,
    stays as it is.
    """

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with both calls changed and marked with `sums`."""
        return rewrite(mod, _changes)


def _changes(program: Program) -> Change:
    norms = _norms(program)
    reading = {norm for norm, _ in norms.values()}

    def change(var: relax.Var, expr: relax.Expr, env: Env) -> relax.Expr:
        new = substitute(expr, env)
        if var in reading:
            return changed(new, [*new.args[:_BEFORE_Z], new.args[-1]], **_PLAIN, sums=1)
        if var not in norms:
            return new
        _, norm = norms[var]
        masks = {key: attributes(norm)[key] for key in ("relu", "upper", "residual")}
        return changed(new, [*new.args, *(substitute(a, env) for a in norm.args[:-1])], **masks, sums=1)

    return change


def _norms(program: Program) -> dict[relax.Var, tuple[relax.Var, relax.Call]]:
    """What a backward-data writes -> the batch norm's backward that reads it."""
    defined, users = program.definitions(), program.users()
    places = {var: i for i, (var, _) in enumerate(program.bindings)}
    found = {}
    for var, expr in program.bindings:
        if op_name(expr) != "mest.normalise_backward" or attributes(expr)["keep"]:
            continue
        *read, gradient = expr.args
        alone = len(read) == _BEFORE_Z + attributes(expr)["residual"] and users[gradient] == [var]
        if not alone or op_name(defined.get(gradient)) not in _BACKWARD_DATA:
            continue
        if all(places.get(a, -1) < places[gradient] for a in read):  # parameters stand before everything
            found[gradient] = (var, expr)
    return found
