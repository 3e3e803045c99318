"""A compiler pass that lays activations out in batch tiles and gives every operator on them its kernel.

Data is converted once where it enters and once where it leaves; an operator without a tiled kernel gets its inputs
as NCHW.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tvm import relax

from mest_compiler.devices import Device
from mest_compiler.frontend.origin import span_of
from mest_compiler.signature import STEP, Arg, Role, part_of

from .layer_kernels import LayerKernels
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
from .repeat import Repeat
from .step_program import StepProgram
from .tiling import convolution, linear, normalise, pixelwise
from .tiling.plan import Pick, plan_layers
from .tiling.state import Tiling, Value

OUTPUT = "(the output)"
"""Origin of what lays out results of a function."""
_ALWAYS = {**convolution.HANDLERS, **linear.HANDLERS, **normalise.HANDLERS}


class TileBatch:
    """Rewrites `step` first (it decides every layer's kernels), then the other functions.

    Afterwards the program has the kernels of its layers, and its functions take the index arrays of the sparse ones
    behind their other arguments.
    """

    def __init__(self, device: Device, pick: Pick) -> None:
        self.device, self.pick = device, pick

    def __call__(self, program: StepProgram) -> StepProgram:
        """The program over batch tiles, its kernels called by call_tir."""
        builder = relax.BlockBuilder()
        kernels, carried = KernelTable(builder), carry_kernels(builder, program.module)
        layers: dict[str, LayerKernels] = {}
        repeats: dict[str, Repeat] = {}
        signature = dict(program.signature)
        for name, function in relax_functions(program.module):
            old = Program.of(function)
            tiling = Tiling(builder, old, self.device, layers, kernels, repeats, program.specs)
            if name == STEP:
                plan_layers(tiling, self.pick)
            taken = _index_arrays(layers, name == STEP)
            for arg in taken:
                var = relax.Var(arg.name.replace(".", "_"), relax.TensorType(arg.shape, arg.dtype))
                tiling.index_params[arg.owner, arg.part] = var
            signature[name] = signature[name].with_arguments(taken)
            params = [*old.params, *tiling.index_params.values()]
            rebuild(builder, name, params, lambda _, t=tiling: _walk(t, carried), old.single)
        return replace(program, module=builder.finalize(), signature=signature, layers=layers, repeats=repeats)


def _index_arrays(layers: Mapping[str, LayerKernels], training: bool) -> list[Arg]:
    """What a step takes of the layers' index arrays, or a prediction, which has no backward kernels."""
    return [
        Arg(Role.INDEX, part_of(param, array), (form.length,), form.dtype)
        for param, layer in layers.items()
        for array, form in (layer.forms() if training else layer.forms_of("forward")).items()
    ]


def _walk(tiling: Tiling, kernels: Env) -> list[relax.Expr]:
    program, results = tiling.program, span_of(OUTPUT)
    for param in program.params:
        tiling.values[param] = Value(param, {}, shape_of(param), dtype_of(param))
    for var, expr in program.bindings:
        tiling.span = results if isinstance(expr, relax.Tuple) else expr.span  # several results stand in a tuple
        _binding(tiling, var, expr, kernels)
    tiling.span = results
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
