"""A compiler pass that replaces the dense weight of every masked convolution or linear layer by compact values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tvm import relax

from mest_compiler.errors import ModelError
from mest_compiler.frontend.ops import attributes
from mest_compiler.frontend.signing import typed_as
from mest_compiler.signature import Role

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


@dataclass(frozen=True)
class SparseLayer:
    """What the compiler fixes of a sparse layer: its scheme, the most entries it will ever have, weights an entry."""

    scheme: str
    capacity: int
    unit_size: int


class SparsifyLayers:
    """Weights of sparse layers become values [capacity, unit_size], and so do their gradients. layers: which weights
    are sparse, and how."""

    def __init__(self, layers: Mapping[str, SparseLayer]) -> None:
        self.layers = layers

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
                if parameter in self.layers:
                    _check_users(old, users[params[place]], parameter)
                    values[params[place]] = params[place] = self._values(parameter, params[place])
            rebuild(
                builder, name, params,
                lambda b, p=old, env=kernels | values: carry_body(b, p, env, self._changed), old.single,
            )  # fmt: skip
        module = builder.finalize()
        return replace(
            program, module=module, signature={n: typed_as(module[n], s) for n, s in program.signature.items()}
        )

    def _values(self, parameter: str, weight: relax.Var) -> relax.Var:
        layer = self.layers[parameter]
        return relax.Var(weight.name, relax.TensorType([layer.capacity, layer.unit_size], dtype_of(weight)))

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
