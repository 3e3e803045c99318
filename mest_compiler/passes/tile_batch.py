"""A compiler pass that lays activations out in batch tiles and gives every operator on them its kernel.

Data is converted once where it enters and once where it leaves; an operator without a tiled kernel gets its inputs
as NCHW.
"""

from __future__ import annotations

import tvm
from tvm import relax

from mest_compiler.devices import Device

from .dataflow import Repeat
from .program import (
    Env,
    KernelTable,
    Program,
    carry_kernels,
    dtype_of,
    op_name,
    rebuild,
    relax_functions,
    shape_of,
    substitute,
    variables,
)
from .tiling import convolution, linear, normalise, pixelwise
from .tiling.plan import Pick, plan_layers
from .tiling.state import LayerKernels, Tiling, Value

_ALWAYS = {**convolution.HANDLERS, **linear.HANDLERS, **normalise.HANDLERS}


@tvm.transform.module_pass(opt_level=0, name="TileBatch")
class TileBatch:
    """Rewrites `step` first (it decides every layer's kernels), then the other functions.

    Afterwards `layers` holds the kernels of each convolution by parameter name, and `index_names[function]` the
    (parameter, array) pairs that stand behind the function's old parameters. `repeats` says how the outputs of kernels
    that update state in place are computed again.
    """

    def __init__(self, device: Device, pick: Pick) -> None:
        self.device, self.pick = device, pick
        self.layers: dict[str, LayerKernels] = {}
        self.index_names: dict[str, list[tuple[str, str]]] = {}
        self.repeats: dict[str, Repeat] = {}

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """The module over batch tiles, its kernels called by call_tir."""
        builder = relax.BlockBuilder()
        kernels = KernelTable(builder)
        carried = carry_kernels(builder, mod)
        for name, function in relax_functions(mod):
            program = Program.of(function)
            tiling = Tiling(builder, program, self.device, self.layers, kernels, self.repeats)
            if name == "step":
                plan_layers(tiling, self.pick)
            wanted = self._index_arrays(name == "step")
            for param, array in wanted:
                form = self.layers[param].forms()[array]
                var = relax.Var(f"{param}/{array}".replace(".", "_"), relax.TensorType([form.length], form.dtype))
                tiling.index_params[param, array] = var
            self.index_names[name] = wanted
            params = [*program.params, *tiling.index_params.values()]
            rebuild(builder, name, params, lambda _, t=tiling: _walk(t, carried), program.single)
        return builder.finalize()

    def flops(self, kernel: str) -> float:
        """Floating-point operations of a layer's forward kernel by name; 0 for other kernels."""
        return next((y.forward_flops for y in self.layers.values() if y.functions.get("forward") == kernel), 0.0)

    def _index_arrays(self, training: bool) -> list[tuple[str, str]]:
        return [
            (param, array)
            for param, layer in self.layers.items()
            for array in (layer.forms() if training else layer.forms_of("forward"))
        ]


def _walk(tiling: Tiling, kernels: Env) -> list[relax.Expr]:
    program = tiling.program
    for param in program.params:
        tiling.values[param] = Value(param, {}, shape_of(param), dtype_of(param))
    for var, expr in program.bindings:
        _binding(tiling, var, expr, kernels)
    return [tiling.plain(out) for out in program.outputs]


def _binding(tiling: Tiling, var: relax.Var, expr: relax.Expr, kernels: Env) -> None:
    if isinstance(expr, relax.TupleGetItem) and expr.tuple_value in tiling.tuples:
        tiling.values[var] = tiling.tuples[expr.tuple_value][int(expr.index)]
        return
    if isinstance(expr, relax.Var):
        tiling.values[var] = tiling.values[expr]
        return
    if isinstance(var.ty, relax.TensorType):
        tiling.values[var] = Value(None, {}, shape_of(var), dtype_of(var))
    name = op_name(expr)
    if name in _ALWAYS:
        _ALWAYS[name](tiling, var, expr)
    elif not (name in pixelwise.HANDLERS and pixelwise.HANDLERS[name](tiling, var, expr)):
        env = kernels | {v: tiling.plain(v) for v in dict.fromkeys(variables(expr))}
        tiling.values.setdefault(var, Value()).plain = tiling.builder.emit(substitute(expr, env), var.name)
