"""A compiler pass that joins batch norm, residual add and ReLU (or ReLU6) into one operator, and their backward into
another.

Apart they are five passes over memory a layer; together each is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm
from tvm import relax

from mest_compiler.frontend.ops import attributes

from .ops import call
from .program import Env, Program, carry_kernels, op_name, rebuild, relax_functions, shape_of, substitute

_FORWARD = {"mest.batch_norm": "mest.normalise", "mest.batch_norm_inference": "mest.normalise_inference"}
_MASKS = ("mest.relu_backward", "mest.clip_backward")  # both read the output


@dataclass
class _Forward:
    """A batch norm and what follows it: `end` is the variable that the joined operator defines, `upper` the bound of
    a ReLU that has one, else infinity.
    """

    bn: relax.Var
    end: relax.Var
    relu: bool
    upper: float
    residual: relax.Var | None


@dataclass
class _Backward:
    """A batch norm's backward and what comes before it: `start` is the first variable of the chain."""

    bnb: relax.Var
    start: relax.Var
    forward: _Forward
    relu: bool
    gradients: list[relax.Var]
    keep: bool


class _Plan:
    """Finds the chains; a variable belongs to one chain at most."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.defined, self.users, self.items = program.definitions(), program.users(), program.items()
        self.claimed: set[relax.Var] = set()
        self.forwards: dict[relax.Var, _Forward] = {}
        self.by_end: dict[relax.Var, _Forward] = {}
        self.backwards: dict[relax.Var, _Backward] = {}
        order = {var: i for i, (var, _) in enumerate(program.bindings)}
        for var, expr in program.bindings:
            if op_name(expr) in _FORWARD:
                self._forward(var, expr)
        for var, expr in reversed(program.bindings):
            if op_name(expr) == "mest.batch_norm_backward":
                self._backward(var, expr, order)

    def _only_user(self, var: relax.Var, *wanted: str) -> relax.Var | None:
        users = self.users[var]
        if len(users) == 1 and users[0] is not None and users[0] not in self.claimed:
            return users[0] if op_name(self.defined[users[0]]) in wanted else None
        return None

    def _rectified(self, var: relax.Var) -> tuple[relax.Var, float] | None:
        """The only user of a variable and its upper bound, if that is a ReLU or a clip from zero on."""
        user = self._only_user(var, "relax.nn.relu", "mest.clip")
        if user is None:
            return None
        if op_name(self.defined[user]) == "relax.nn.relu":
            return user, math.inf
        bounds = attributes(self.defined[user])
        return (user, bounds["high"]) if bounds["low"] == 0 and bounds["high"] > 0 else None

    def _forward(self, bn: relax.Var, expr: relax.Call) -> None:
        training = op_name(expr) == "mest.batch_norm"
        y = self.items[bn].get(0) if training else bn
        if y is None:
            return
        end, residual, relu, upper = y, None, False, math.inf
        added = self._only_user(y, "relax.add")
        if added is not None:
            others = [a for a in self.defined[added].args if not a.same_as(y)]
            if len(others) == 1 and isinstance(others[0], relax.Var) and shape_of(others[0]) == shape_of(y):
                residual, end = others[0], added
        rectified = self._rectified(end)
        if rectified is not None:
            relu, (end, upper) = True, rectified
        chain = _Forward(bn, end, relu, upper, residual)
        self.claimed.update((end, y) if residual is None else (end, y, added))
        self.forwards[bn] = self.by_end[end] = chain

    def _parts(self, gradient: relax.Var, reader: relax.Var) -> list[relax.Var]:
        """The two gradients that an add used only here brings together, or the gradient itself."""
        expr = self.defined.get(gradient)
        if op_name(expr) == "relax.add" and self.users[gradient] == [reader] and gradient not in self.claimed:
            parts = list(expr.args)
            if all(isinstance(p, relax.Var) and shape_of(p) == shape_of(gradient) for p in parts):
                self.claimed.add(gradient)
                return parts
        return [gradient]

    def _backward(self, bnb: relax.Var, expr: relax.Call, order: dict[relax.Var, int]) -> None:
        g, mean = expr.args[0], expr.args[3]
        item = self.defined.get(mean)
        forward = self.forwards.get(item.tuple_value) if isinstance(item, relax.TupleGetItem) else None
        if forward is None or not isinstance(g, relax.Var):
            return
        source = self.defined.get(g)
        masks = op_name(source) in _MASKS and self.by_end.get(source.args[1]) is forward
        if masks and forward.relu and g not in self.claimed:
            keep = self.users[g] != [bnb]
            self.claimed.add(g)
            chain = _Backward(bnb, g, forward, True, self._parts(source.args[0], g), keep)
        elif not forward.relu or not masks:
            # The gradient already has its ReLU taken into account (or there is none): no mask here.
            chain = _Backward(bnb, bnb, forward, False, self._parts(g, bnb), False)
        else:
            return
        self.backwards[chain.start] = chain


class _Rewrite:
    """Emits the program with its chains joined."""

    def __init__(self, plan: _Plan, kernels: Env) -> None:
        self.plan = plan
        self.env: Env = dict(kernels)
        self.chain_of_bn = {chain.bn for chain in plan.forwards.values()}
        self.chain_of_bnb = {chain.bnb for chain in plan.backwards.values()}

    def body(self, builder: relax.BlockBuilder) -> list[relax.Expr]:
        self.builder = builder
        for var, expr in self.plan.program.bindings:
            self._binding(var, expr)
        return [substitute(out, self.env) for out in self.plan.program.outputs]

    def _binding(self, var: relax.Var, expr: relax.Expr) -> None:
        plan = self.plan
        if var in plan.by_end:
            self._emit_forward(plan.by_end[var])
        elif var in plan.backwards:
            self._emit_backward(plan.backwards[var])
        elif var in plan.claimed or var in self.chain_of_bn or var in self.chain_of_bnb:
            return  # inside a chain
        elif isinstance(expr, relax.TupleGetItem) and expr.tuple_value in self.chain_of_bn | self.chain_of_bnb:
            return  # bound with its chain
        elif isinstance(expr, relax.Tuple):
            self.env[var] = substitute(expr, self.env)
        else:
            self.env[var] = self.builder.emit(substitute(expr, self.env), var.name)

    def _items(self, before: relax.Var, after: relax.Var) -> None:
        for index, item in self.plan.items[before].items():
            self.env[item] = self.builder.emit(relax.TupleGetItem(after, index), item.name)

    def _emit_forward(self, chain: _Forward) -> None:
        old = self.plan.defined[chain.bn]
        args = [substitute(a, self.env) for a in old.args]
        if chain.residual is not None:
            args.append(self.env.get(chain.residual, chain.residual))
        attrs = {**attributes(old), "relu": int(chain.relu), "upper": chain.upper}
        attrs["residual"] = int(chain.residual is not None)
        new = self.builder.emit(call(_FORWARD[op_name(old)], args, old, **attrs), chain.end.name)
        if op_name(old) == "mest.batch_norm":
            self._items(chain.bn, new)
            self.env[chain.end] = self.env[self.plan.items[chain.bn][0]]
        else:
            self.env[chain.end] = new

    def _emit_backward(self, chain: _Backward) -> None:
        forward = chain.forward
        old = self.plan.defined[chain.bnb]
        _, x, w, mean, rstd = old.args
        bias = self.plan.defined[forward.bn].args[2]
        reads_z = chain.relu and forward.residual is not None
        wanted = [x, w, bias, mean, rstd, *([forward.end] if reads_z else []), *chain.gradients]
        args = [substitute(a, self.env) for a in wanted]
        attrs = {"relu": int(chain.relu), "upper": forward.upper, "residual": int(reads_z), "keep": int(chain.keep)}
        new = self.builder.emit(call("mest.normalise_backward", args, old, **attrs), chain.bnb.name)
        self._items(chain.bnb, new)
        if chain.keep:
            self.env[chain.start] = self.builder.emit(relax.TupleGetItem(new, 3), chain.start.name)


@tvm.transform.module_pass(opt_level=0, name="FuseNormalise")
class FuseNormalise:
    """Joins batch norm + add + ReLU chains, forward and backward, in every function of a module."""

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with mest.batch_norm* replaced by mest.normalise*."""
        builder = relax.BlockBuilder()
        kernels = carry_kernels(builder, mod)
        for name, function in relax_functions(mod):
            program = Program.of(function)
            rebuild(builder, name, program.params, _Rewrite(_Plan(program), kernels).body, program.single)
        return builder.finalize()
