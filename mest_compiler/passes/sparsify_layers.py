"""A compiler pass that replaces the dense weight of every masked convolution or linear layer by compact values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from tvm import relax

from mest_compiler.errors import ModelError
from mest_compiler.frontend.ops import attributes
from mest_compiler.frontend.signing import typed_as
from mest_compiler.signature import Role
from mest_compiler.sparsity.layer_spec import SparseLayerSpec

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
from .step_program import StepProgram

_LAYERS = tuple(
    f"mest.{kind}{direction}"
    for kind in ("conv2d", "linear")
    for direction in ("", "_backward_data", "_backward_weight")
)


class SparsifyLayers:
    """Weights of sparse layers become values [capacity, unit_size], and so do their gradients. specs: which weights
    are sparse, and how; the program has them afterwards."""

    def __init__(self, specs: Mapping[str, SparseLayerSpec]) -> None:
        self.specs = specs

    def __call__(self, program: StepProgram) -> StepProgram:
        """The program with compact weights.

        Raises:
            ModelError: something else than its layer reads a sparse weight.
        """
        builder = relax.BlockBuilder()
        kernels = carry_kernels(builder, program.module)
        for name, function in relax_functions(program.module):
            old = Program.of(function)
            params, values, users = list(old.params), {}, old.users()
            for parameter, place in program.signature[name].places(Role.PARAMETER, Role.FROZEN).items():
                if parameter in self.specs:
                    _check_users(old, users[params[place]], parameter)
                    values[params[place]] = params[place] = self._values(parameter, params[place])
            rebuild(
                builder, name, params,
                lambda b, p=old, env=kernels | values: carry_body(b, p, env, self._changed), old.single,
            )  # fmt: skip
        module = builder.finalize()
        signature = {name: typed_as(module[name], found) for name, found in program.signature.items()}
        return replace(program, module=module, signature=signature, specs=self.specs)

    def _values(self, parameter: str, weight: relax.Var) -> relax.Var:
        return relax.Var(weight.name, relax.TensorType(self.specs[parameter].values_shape, dtype_of(weight)))

    def _changed(self, _: relax.Var, expr: relax.Expr, env: Env) -> relax.Expr:
        name, new = op_name(expr), substitute(expr, env)
        if name not in _LAYERS:
            return new
        attrs = attributes(expr)
        spec = self.specs.get(attrs["param"])
        if spec is None:
            return new
        if name.endswith("weight"):
            attrs["oshape"] = spec.values_shape
        elif "linear" in name:
            attrs["oshape"] = shape_of(expr)
        attrs = {key: list(value) if isinstance(value, tuple) else value for key, value in attrs.items()}
        return call(name.replace("mest.", "mest.sparse_"), new.args, expr, **attrs)


def _check_users(program: Program, users: Iterable[relax.Var | None], parameter: str) -> None:
    """Raise ModelError for a reader of a sparse weight that is not its layer."""
    defined = program.definitions()
    for user in users:
        if user is None or op_name(defined[user]) not in _LAYERS:
            what = op_name(defined[user]) if user is not None else "the result"
            raise ModelError(
                f"The sparse weight {parameter!r} is read by {what or 'another expression'}, not only by its "
                "convolution: keep that layer dense in the profile."
            )
