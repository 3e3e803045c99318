"""A compiler pass that replaces the dense weight of every masked convolution or linear layer by compact values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tvm
from tvm import relax

from mest_compiler.errors import ModelError
from mest_compiler.frontend.ops import attributes

from .ops import call
from .program import (
    Env,
    Program,
    carry_body,
    carry_kernels,
    dtype_of,
    op_name,
    rebuild,
    relax_functions,
    shape_of,
    substitute,
)

_LAYERS = tuple(
    f"mest.{kind}{direction}"
    for kind in ("conv2d", "linear")
    for direction in ("", "_backward_data", "_backward_weight")
)


@dataclass(frozen=True)
class SparseLayer:
    """What the compiler fixes of a sparse layer: its scheme, the most entries it will ever have, weights an entry."""

    scheme: str
    capacity: int
    unit_size: int


@tvm.transform.module_pass(opt_level=0, name="SparsifyConvolutions")
class SparsifyConvolutions:
    """`names` are the parameters' names in argument order; `layers` says which of them are sparse, and how."""

    def __init__(self, names: tuple[str, ...], layers: Mapping[str, SparseLayer]) -> None:
        self.names, self.layers = names, layers

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with weights of sparse layers as values [capacity, unit_size], their gradients likewise."""
        builder = relax.BlockBuilder()
        kernels = carry_kernels(builder, mod)
        for name, function in relax_functions(mod):
            program = Program.of(function)
            values, params = self._values(program)
            self._check_users(program, values)
            rebuild(
                builder, name, params,
                lambda b, p=program, env=kernels | values: carry_body(b, p, env, self._changed), program.single,
            )  # fmt: skip
        return builder.finalize()

    def _values(self, program: Program) -> tuple[Env, list[relax.Var]]:
        env: Env = {}
        params = list(program.params)
        for i, name in enumerate(self.names):
            if name in self.layers:
                layer, old = self.layers[name], params[i]
                ty = relax.TensorType([layer.capacity, layer.unit_size], dtype_of(old))
                env[old] = params[i] = relax.Var(old.name, ty)
        return env, params

    def _check_users(self, program: Program, weights: Env) -> None:
        defined, users = program.definitions(), program.users()
        named = dict(zip(program.params, self.names, strict=False))
        for weight in weights:
            for user in users[weight]:
                if user is None or op_name(defined[user]) not in _LAYERS:
                    what = op_name(defined[user]) if user is not None else "the result"
                    raise ModelError(
                        f"The sparse weight {named[weight]!r} is read by {what or 'another expression'}, not "
                        "only by its convolution: keep that layer dense in the profile."
                    )

    def _changed(self, _: relax.Var, expr: relax.Expr, env: Env) -> relax.Expr:
        name, new = op_name(expr), substitute(expr, env)
        if name not in _LAYERS:
            return new
        attrs = attributes(expr)
        layer = self.layers.get(attrs["param"])
        if layer is None:
            return new
        # A linear layer is a convolution with 1x1 kernels.
        weight = [*(shape_of(expr) if name.endswith("weight") else shape_of(expr.args[1])), 1, 1][:4]
        if name.endswith("weight"):
            attrs["oshape"] = (layer.capacity, layer.unit_size)
        elif "linear" in name:
            attrs["oshape"] = shape_of(expr)
        attrs = {key: list(value) if isinstance(value, tuple) else value for key, value in attrs.items()}
        return call(name.replace("mest.", "mest.sparse_"), new.args, **attrs, weight=list(weight), scheme=layer.scheme)
