"""What every pass takes and gives: a training step's module, and all that is known of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import tvm
import tvm_ffi
from tvm import relax

from mest_compiler.frontend.signing import arg_of, fields_of, signed
from mest_compiler.signature import STEP, Arg, FunctionSignature, Role, StepSignature
from mest_compiler.sparsity.layer_spec import SparseLayerSpec

from .arena import Arena
from .layer_kernels import LayerKernels
from .program import Env, Program, carry_body, carry_kernels, rebuild, relax_functions
from .repeat import Repeat


@dataclass(frozen=True)
class StepProgram:
    """A step on its way from a traced graph to planned memory.

    Attributes:
        module: Relax functions (step, predict, and update where a batch is trained in parts), and their kernels.
        signature: what their arguments and results are; shapes and dtypes are those of the module.
        specs: of the sparse layers by parameter name, once their weights are compact.
        layers: kernels of each convolution and of each sparse linear layer by parameter name, once it has them.
        repeats: how the outputs of kernels that update state in place are computed again, by the kernel's name.
        arenas: what each function keeps in planned memory, once it is planned.
    """

    module: tvm.IRModule
    signature: StepSignature
    specs: Mapping[str, SparseLayerSpec] = field(default_factory=dict)
    layers: Mapping[str, LayerKernels] = field(default_factory=dict)
    repeats: Mapping[str, Repeat] = field(default_factory=dict)
    arenas: Mapping[str, Arena] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError: the signature is not the module's, so a pass has forgotten to tell something."""
        for name, found in self.signature.items():  # a module has others while TVM fuses operators
            function = self.module[name]
            _check(f"argument of {name}", [p.ty for p in function.params], found.arguments)
            _check(f"result of {name}", fields_of(function.ret_ty), found.results)

    def mapped(self, change: Callable[[tvm.IRModule], tvm.IRModule]) -> StepProgram:
        """With another module whose functions take and give the same."""
        return replace(self, module=change(self.module))

    def flops(self, kernel: str) -> float:
        """Floating-point operations of a layer's forward kernel by name; 0 for other kernels."""
        return next((y.forward_flops for y in self.layers.values() if y.functions.get("forward") == kernel), 0.0)


Named = dict[tuple[Role, str], relax.Expr]
"""Arguments or results of a function by role and name, in order."""


def named(args: Sequence[Arg], values: Sequence[relax.Expr]) -> Named:
    """The values of these arguments or results."""
    return {(arg.role, arg.name): value for arg, value in zip(args, values, strict=True)}


def write(
    builder: relax.BlockBuilder, name: str, taken: Named, body: Callable[[relax.BlockBuilder], Named]
) -> FunctionSignature:
    """Adds a function of one dataflow block that takes these variables; `body` emits and gives its results, of which
    those with the role and name of an argument are in its memory."""
    given: Named = {}

    def outputs(builder: relax.BlockBuilder) -> list[relax.Expr]:
        given.update(body(builder))
        return list(given.values())

    rebuild(builder, name, list(taken.values()), outputs, single=False)
    places = {key: at for at, key in enumerate(taken)}
    function = builder.get()[name]
    return signed(function, list(taken), [(*key, places.get(key)) for key in given])


WriteStep = Callable[[relax.BlockBuilder, Program, FunctionSignature, Env], StepSignature]
"""writes(builder, the step's bindings, its signature, what kernels have become) -> signatures of what was written."""


def with_step(program: StepProgram, writes: WriteStep) -> StepProgram:
    """The program with its step written anew, and whatever `writes` adds beside it; the other functions stay."""
    builder = relax.BlockBuilder()
    kernels, signature = carry_kernels(builder, program.module), dict(program.signature)
    for name, function in relax_functions(program.module):
        old = Program.of(function)
        if name == STEP:
            signature |= writes(builder, old, signature[name], kernels)
        else:
            rebuild(builder, name, old.params, lambda b, p=old: carry_body(b, p, dict(kernels)), old.single)
    return replace(program, module=builder.finalize(), signature=signature)


@lru_cache(maxsize=64)
def _row(args: tuple[Arg, ...]) -> relax.TupleType:
    """The types that a signature says, in one: most passes leave it as it is."""
    return relax.TupleType([relax.TensorType(arg.shape, arg.dtype) for arg in args])


def _check(what: str, types: Sequence[tvm.ir.Type], args: tuple[Arg, ...]) -> None:
    if tvm_ffi.structural_equal(relax.TupleType(types), _row(args)):
        return  # what follows says what is wrong, argument by argument, and is several times slower
    if len(types) != len(args):
        raise ValueError(f"{what}: there are {len(types)}, and {len(args)} in the signature")
    for ty, arg in zip(types, args, strict=True):
        found = arg_of(arg.role, arg.name, ty, arg.alias)
        if found != arg:
            raise ValueError(f"{what}: {found} in the module, and {arg} in the signature")
