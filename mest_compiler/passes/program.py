"""A Relax function as a plain list of bindings, for passes that read it whole and write it anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import tvm
from tvm import relax

from mest_compiler.schedules.partial import Partial


def op_name(expr: relax.Expr) -> str:
    """Name of the operator that an expression calls, or "" for anything else."""
    return str(expr.op.name) if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) else ""


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """Static shape of a tensor expression."""
    return tuple(int(n) for n in expr.ty.shape)


def dtype_of(expr: relax.Expr) -> str:
    """Element type of a tensor expression."""
    return str(expr.ty.dtype)


Env = dict[relax.Expr, relax.Expr]  # variable (or global variable) of the old module -> expression of the new one


def substitute(expr: relax.Expr, env: Env) -> relax.Expr:
    """The expression with its variables replaced."""
    if isinstance(expr, relax.Var | tvm.ir.GlobalVar):
        return env.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([substitute(f, env) for f in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(substitute(expr.tuple_value, env), expr.index)
    if isinstance(expr, relax.Call):
        return relax.Call(expr.op, [substitute(a, env) for a in expr.args], expr.attrs, expr.ty_args, expr.span)
    return expr


def variables(expr: relax.Expr) -> list[relax.Var]:
    """Variables an expression reads directly."""
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Tuple):
        return [v for f in expr.fields for v in variables(f)]
    if isinstance(expr, relax.TupleGetItem):
        return variables(expr.tuple_value)
    if isinstance(expr, relax.Call):
        return [v for a in expr.args for v in variables(a)]
    return []


@dataclass(frozen=True)
class Program:
    """Bindings of a one-block function, in order, and who uses what."""

    params: list[relax.Var]
    bindings: list[tuple[relax.Var, relax.Expr]]
    result: relax.Expr

    @classmethod
    def of(cls, function: relax.Function) -> Program:
        """Reads a function; tuples it returns are followed to their fields."""
        bindings = [(b.var, b.value) for block in function.body.blocks for b in block.bindings]
        result, defined = function.body.body, dict(bindings)
        while isinstance(result, relax.Var) and isinstance(defined.get(result), relax.Var | relax.Tuple):
            result = defined[result]
        return cls(list(function.params), bindings, result)

    @property
    def outputs(self) -> list[relax.Expr]:
        """What the function returns: a tuple's fields, or the one result."""
        return list(self.result.fields) if isinstance(self.result, relax.Tuple) else [self.result]

    @property
    def single(self) -> bool:
        """Whether it returns one result, not a tuple."""
        return not isinstance(self.result, relax.Tuple)

    def definitions(self) -> dict[relax.Var, relax.Expr]:
        """Variable -> the expression bound to it."""
        return dict(self.bindings)

    def users(self) -> dict[relax.Var, list[relax.Var | None]]:
        """Variable -> the variables whose bindings read it; None stands for the function's result."""
        found: dict[relax.Var, list[relax.Var | None]] = defaultdict(list)
        live_result = set(variables(self.result))
        for var, expr in self.bindings:
            if isinstance(expr, relax.Tuple) and var not in live_result and expr.same_as(self.result):
                continue
            for used in variables(expr):
                found[used].append(var)
        for used in live_result:
            found[used].append(None)
        return found

    def items(self) -> dict[relax.Var, dict[int, relax.Var]]:
        """Tuple variable -> {index: variable of that item}."""
        found: dict[relax.Var, dict[int, relax.Var]] = defaultdict(dict)
        for var, expr in self.bindings:
            if isinstance(expr, relax.TupleGetItem) and isinstance(expr.tuple_value, relax.Var):
                found[expr.tuple_value].setdefault(int(expr.index), var)
        return found


def relax_functions(mod: tvm.IRModule) -> list[tuple[str, relax.Function]]:
    """The module's Relax functions by name, `step` first."""
    found = [(gvar.name_hint, f) for gvar, f in mod.functions.items() if isinstance(f, relax.Function)]
    return sorted(found, key=lambda item: item[0] != "step")


def carry_kernels(builder: relax.BlockBuilder, mod: tvm.IRModule) -> Env:
    """Adds the module's PrimFuncs to a builder; gives old global variable -> new one."""
    kernels = [(gvar, f) for gvar, f in mod.functions.items() if not isinstance(f, relax.Function)]
    return {gvar: builder.add_func(f, gvar.name_hint) for gvar, f in kernels}


class KernelTable:
    """The kernels of a module in the making: each is made once, and those with the same code are one function."""

    def __init__(self, builder: relax.BlockBuilder) -> None:
        self._builder, self._made = builder, {}

    def get(self, make: Partial) -> relax.GlobalVar:
        """The kernel that `make` makes, added to the module on its first use."""
        if make not in self._made:
            function = make()
            name = str(function.attrs["global_symbol"])
            # The builder merges functions that are structurally equal.
            self._made[make] = self._builder.add_func(function.without_attr("global_symbol"), name)
        return self._made[make]


def rebuild(
    builder: relax.BlockBuilder,
    name: str,
    params: list[relax.Var],
    body: Callable[[relax.BlockBuilder], list[relax.Expr]],
    single: bool,
) -> None:
    """Adds a function of one dataflow block to the builder; `body` emits and returns the outputs."""
    with builder.function(name, params, pure=True):
        with builder.dataflow():
            outputs = body(builder)
            result = builder.emit_output(outputs[0] if single else relax.Tuple(outputs))
        builder.emit_func_output(result)


Change = Callable[[relax.Var, relax.Expr, Env], relax.Expr | None]
"""change(variable, its expression, what variables have become) -> what to bind over new variables, or None for nothing:
nobody reads it any more."""


def carry_body(
    builder: relax.BlockBuilder, program: Program, env: Env,
    change: Change = lambda var, expr, env: substitute(expr, env),
    follow: Callable[[relax.Var, relax.Expr], None] = lambda old, new: None,
) -> list[relax.Expr]:  # fmt: skip
    """Emits the bindings of a function, changed or as they are; gives its outputs.

    env: what its parameters and the kernels have become; the variables are added to it. follow(old variable, new one)
    may emit more after each binding.
    """
    for var, expr in program.bindings:
        if isinstance(expr, relax.Tuple):
            env[var] = substitute(expr, env)
        elif (new := change(var, expr, env)) is not None:
            env[var] = builder.emit(new, var.name)
            follow(var, env[var])
    return [substitute(out, env) for out in program.outputs]


def rewrite(mod: tvm.IRModule, changes: Callable[[Program], Change]) -> tvm.IRModule:
    """The module with bindings of its Relax functions changed: changes(function) says how."""
    builder = relax.BlockBuilder()
    kernels = carry_kernels(builder, mod)
    for name, function in relax_functions(mod):
        program = Program.of(function)
        change = changes(program)
        rebuild(
            builder, name, program.params,
            lambda b, p=program, change=change: carry_body(b, p, dict(kernels), change), program.single,
        )  # fmt: skip
    return builder.finalize()
